"""What each matrix of a sub-model costs the model: how far the loss would fall if it alone were left whole.

Half of every matrix is dropped by Wanda's scores on the dense model's inputs (or what the pattern says), in the whole
model at once. On the domain's text the gradient of KL(dense || sub-model) by the sub-model's weights, times the dropped
weights, summed over a matrix, is to first order by how much the loss would fall with them back in place. One pass finds
that of all matrices. On the 135M model it agrees with what leaving one attention or MLP after another dense does (a
correlation of 0.96 over 60 of them, dev/LOG.md), at a fraction of the time and with less noise.

And what one more weight of each row costs. To second order a dropped weight w of a row costs about

    w^2 * sum over tokens of g^2 x^2 / 2,

x being its input and g the gradient of the loss by the row's output, the labels drawn from the model's own
predictions: the diagonal of the Fisher matrix. With x and g taken as independent it is the square of Wanda's score
times the mean of g^2, so one run of the dense model with its gradient finds it for all rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from submodel.base.matrices import all_matrices
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.prune.gradients import Twin, check_fits, input_norms, learn, linears_of, open_whole, own_slopes, sample
from submodel.prune.sparsity import Pattern, keep_mask
from submodel.prune.statistics import SquaredNorm

TOKENS = 8192  # of a domain's text that are looked at


def check_memory(base: Base, dtype: torch.dtype, device: str, *, masked: bool) -> None:
    """Raises SubmodelError where this machine's memory cannot hold the model with its gradients.

    `masked`: and with a sub-model's weights and their gradient, as `costs` needs them.
    """
    check_fits(base, dtype, device, beside=2 * dtype.itemsize if masked else 0, instead="another --allocation")


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
    twins = {name: pruned(model.get_parameter(name), norms.get(name), pattern) for name in names}
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


def row_costs(
    base: Base,
    text: Samples,
    pattern: Pattern,
    *,
    dtype: torch.dtype,
    device: str,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, torch.Tensor]:
    """What one more weight of each row costs, beyond those that the pattern removes.

    Args:
        base: the base model.
        text: the domain's; all of it is read.
        pattern: what is dropped of every row, by Wanda's scores.
        dtype, device: of the arithmetic.
        progress: told how many more tokens are done.

    Returns:
        Matrix -> nats a token, float64 (rows,), to second order. Linears that no token reaches, and experts that are
        one parameter, have none.
    """
    model = open_whole(base, text, dtype, device)
    names = [matrix.name for matrix in all_matrices(model)]
    linears = linears_of(model, names)
    norms = {name: SquaredNorm(linear.in_features, linear.weight.device) for name, linear in linears.items()}
    slopes = {name: torch.zeros(linear.out_features, dtype=torch.float64) for name, linear in linears.items()}

    def watch(name: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            norms[name].update(inputs[0].detach().flatten(0, -2))
            output.register_hook(add)

        def add(slope: torch.Tensor) -> None:
            slopes[name] += slope.flatten(0, -2).float().square().sum(0, dtype=torch.float64).cpu()

        return see

    model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_())
    for name, linear in linears.items():
        linear.register_forward_hook(watch(name))
    chance = torch.Generator(device).manual_seed(0)
    for index in range(len(text.ids)):
        ids, weights = sample(text, index)
        with torch.enable_grad():
            said = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
        torch.autograd.backward([said], [own_slopes(said.detach(), weights.to(said.device), chance)])
        progress(len(ids))
    found: dict[str, torch.Tensor] = {}
    for name, linear in linears.items():
        if seen := norms[name].tokens:
            scores = linear.weight.detach().float().square_().mul_(norms[name].sum_squares.float())
            last = max(1, pattern.removed(linear.in_features))
            found[name] = scores.kthvalue(last, dim=1).values.double().cpu() * slopes[name] / (2 * seen**2)
    return found


def scores_of(dense: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """Wanda's scores, float32 (rows, cols), from the squared norms of the inputs (cols,); stacked experts have none."""
    scores = dense.float().abs()
    return scores if norms is None else scores.mul_(norms.sqrt())


def pruned(parameter: torch.nn.Parameter, norms: torch.Tensor | None, pattern: Pattern) -> Twin:
    """A parameter and its sub-model's, by `scores_of`; a gradient is asked of it."""
    parameter.requires_grad_()
    dense = parameter.data.view(-1, parameter.shape[-1])
    return Twin(parameter, dense, dense * keep_mask(scores_of(dense, norms), pattern))
