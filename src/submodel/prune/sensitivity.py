"""What each matrix of a sub-model costs the model: how far the loss would fall if it alone were left whole.

Half of every matrix is dropped by Wanda's scores on the dense model's inputs (or what the pattern says), in the whole
model at once. On the domain's text the gradient of KL(dense || sub-model) by the sub-model's weights, times the dropped
weights, summed over a matrix, is to first order by how much the loss would fall with them back in place. One pass finds
that of all matrices. On the 135M model it agrees with what leaving one attention or MLP after another dense does (a
correlation of 0.96 over 60 of them, dev/LOG.md), at a fraction of the time and with less noise.
"""

from collections.abc import Callable
from typing import Any

import torch

from submodel.calibration import Samples
from submodel.models import Base, all_matrices
from submodel.prune.select import Pattern, keep_mask
from submodel.prune.whole import Twin, check_fits, input_norms, learn, open_whole, sample

TOKENS = 8192  # of a domain's text that are looked at


def check_memory(base: Base, dtype: torch.dtype, device: str) -> None:
    """Raises SubmodelError for a model that this machine's memory cannot hold with its gradients."""
    check_fits(base, dtype, device, beside=0, instead="another --allocation")


def costs(
    base: Base,
    text: Samples,
    pattern: Pattern,
    *,
    dtype: torch.dtype,
    device: str,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, float]:
    """What each matrix costs.

    Args:
        base: the base model.
        text: the domain's; all of it is read.
        pattern: what is dropped of every matrix.
        dtype, device: of the arithmetic.
        progress: told how many more tokens are done.

    Returns:
        Matrix -> nats a token that the loss would fall by, to first order; experts that are one parameter together.
        An estimate may be below 0.
    """
    model = open_whole(base, text, dtype, device)
    names = [matrix.name for matrix in all_matrices(model)]
    norms = input_norms(model, names, text)
    twins = {name: _pruned(model.get_parameter(name), norms.get(name), pattern) for name in names}
    found = dict.fromkeys(names, 0.0)
    texts = [sample(text, index) for index in range(len(text.ids))]
    whole = float(sum(weights.sum() for _, weights in texts))
    for ids, weights in texts:
        learn(model, twins.values(), ids, weights / whole)
        for name, twin in twins.items():
            gradient = twin.gradient()
            if gradient is not None:
                pull = gradient.float().mul_(twin.dense).masked_fill_(twin.masked != 0, 0)
                found[name] -= float(pull.sum(dtype=torch.float64))
        progress(len(ids))
    return found


def _pruned(parameter: torch.nn.Parameter, norms: torch.Tensor | None, pattern: Pattern) -> Twin:
    parameter.requires_grad_()
    dense = parameter.data.view(-1, parameter.shape[-1])
    scores = dense.float().abs()
    if norms is not None:  # stacked experts have none
        scores *= norms.sqrt()
    return Twin(parameter, dense, dense * keep_mask(scores, pattern))
