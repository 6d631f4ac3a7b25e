"""A whole model in memory, a sub-model of it in the same parameters, and the gradient of what it loses.

In bfloat16 a prunable weight takes six bytes: dense, masked, and its gradient. A sample's activations come on top.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.base import native
from submodel.base.matrices import all_matrices
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.prune.statistics import SquaredNorm

_NORM_TOKENS = 8192
_AT_ONCE = 256  # positions whose probabilities are in memory at once, in float32
_PLAIN = 1024  # tokens a sample up to which plain attention is used on a CPU: its gradient is faster (dev/LOG.md)


@dataclass(frozen=True)
class Twin:
    """A prunable parameter, its rows seen as one matrix (rows, cols): the dense weights, and the sub-model's."""

    parameter: nn.Parameter
    dense: torch.Tensor
    masked: torch.Tensor

    def gradient(self) -> torch.Tensor | None:
        """The parameter's gradient (rows, cols), which is dropped; None if no token reached it.

        Times a weight it is, to first order, what the loss grows by when that weight is there rather than not.
        """
        if self.parameter.grad is None:
            return None
        gradient = self.parameter.grad.view_as(self.dense)
        self.parameter.grad = None
        return gradient


def kernels_for(tensor: torch.Tensor) -> Any:
    """The native library, if there is one and this lies where and in numbers that it reads; else None."""
    reads = tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float32)
    return native.library() if reads else None


def open_whole(base: Base, text: Samples, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The model, no gradient asked of anything yet, its attention as suits the gradient of such samples."""
    model = base.load(dtype, device).requires_grad_(False)
    if device == "cpu" and text.ids.shape[1] <= _PLAIN:
        model.set_attn_implementation("eager")
    return model


def check_fits(base: Base, dtype: torch.dtype, device: str, *, beside: int, instead: str) -> None:
    """Refuse a model that this machine's memory cannot hold with its gradients.

    Args:
        base: the base model.
        dtype, device: of the arithmetic.
        beside: bytes a prunable weight that are needed beside the model.
        instead: what to give instead, for the message.

    Raises:
        SubmodelError: it cannot.
    """
    model = base.skeleton(dtype)
    prunable = sum(matrix.weight.numel() for matrix in all_matrices(model))
    whole = sum(parameter.numel() for parameter in model.parameters())
    needed = dtype.itemsize * whole + beside * prunable
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device == "cpu" and needed > have:
        raise SubmodelError(
            f"{base.reference}: the gradients need {needed / 2**30:.1f} GiB, this machine has "
            f"{have / 2**30:.1f}: give {instead}"
        )


def sample(text: Samples, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample's tokens and what they count for, both (tokens,)."""
    ids = text.ids[index][: text.sizes[index]]
    return ids, torch.ones(len(ids)) if text.weights is None else text.weights[index][: len(ids)]


def in_parts(text: Samples, of: int) -> list[list[int]]:
    """Samples in their order, parts of at least so many tokens; what is left over joins the last."""
    parts: list[list[int]] = [[]]
    tokens = 0
    for index, size in enumerate(text.sizes):
        if tokens >= of:
            parts.append([])
            tokens = 0
        parts[-1].append(index)
        tokens += size
    if len(parts) > 1 and tokens < of:
        rest = parts.pop()
        parts[-1] += rest
    return parts


def linears_of(model: PreTrainedModel, names: Iterable[str]) -> dict[str, nn.Linear]:
    """The linears among matrices, by the matrices' names; stacked experts are none."""
    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    return {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}


@torch.no_grad()
def input_norms(model: PreTrainedModel, names: Sequence[str], text: Samples) -> dict[str, torch.Tensor]:
    """Squared norms (cols,) of the inputs of linears in the dense model, over the first 8,192 tokens or all.

    Stacked experts have none.
    """
    seen: dict[str, SquaredNorm] = {}
    hooks: list[Any] = []
    for name, linear in linears_of(model, names).items():
        norm = seen[name] = SquaredNorm(linear.in_features, linear.weight.device)
        hooks.append(linear.register_forward_pre_hook(lambda _, x, norm=norm: norm.update(x[0].flatten(0, -2))))
    tokens = 0
    for index in range(len(text.ids)):
        ids, _ = sample(text, index)
        model(input_ids=ids[None].to(model.device), use_cache=False, logits_to_keep=1)
        tokens += len(ids)
        if tokens >= _NORM_TOKENS:
            break
    for hook in hooks:
        hook.remove()
    return {name: norm.sum_squares.float() for name, norm in seen.items()}


def learn(
    model: PreTrainedModel, twins: Iterable[Twin], ids: torch.Tensor, weights: torch.Tensor, *, hidden: float = 0
) -> float:
    """Add a sample's gradient to the parameters of the twins.

    Args:
        model: the model, with the dense weights in it.
        twins: of its prunable parameters.
        ids: the sample's tokens (tokens,).
        weights: what each of them counts for (tokens,).
        hidden: what a block's output counts for beside the divergence: this times the mean over the blocks of
            |h - h'|^2 / |h|^2, h and h' a token's hidden state in the dense model and in the sub-model (after
            SquareHead, arXiv 2310.06927).

    Returns:
        The sum over the tokens of weight times KL(dense || sub-model), in nats; hidden states are not in it.
    """
    ids, weights, twins = ids.to(model.device), weights.to(model.device), list(twins)
    with torch.no_grad():
        dense = _run(model, ids, bool(hidden))
    with _in_place(twins), torch.enable_grad():
        pruned = _run(model, ids, bool(hidden))
        slopes, loss = _divergence(dense.logits[0], pruned.logits[0].detach(), weights)
        outputs, gradients = [pruned.logits[0]], [slopes]
        if hidden:
            states = list(zip(dense.hidden_states[1:], pruned.hidden_states[1:], strict=True))
            for wanted, said in states:
                outputs.append(said[0])
                gradients.append(_drift(wanted[0], said[0].detach(), weights * (hidden / len(states))))
        torch.autograd.backward(outputs, gradients)
    return loss


def _run(model: PreTrainedModel, ids: torch.Tensor, hidden: bool) -> Any:
    return model(input_ids=ids[None], use_cache=False, output_hidden_states=hidden)


def _drift(wanted: torch.Tensor, said: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The gradient by `said` (tokens, features) of the sum of weight times |wanted - said|^2 / |wanted|^2."""
    size = wanted.float().square().sum(-1).clamp_(min=1e-30)
    return (said.float() - wanted).mul_((2 * weights / size)[:, None]).to(said.dtype)


def _divergence(dense: torch.Tensor, pruned: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """KL(dense || pruned) of logits (tokens, vocabulary), weighted and summed, and its gradient by `pruned`."""
    slopes, loss = torch.empty_like(pruned, memory_format=torch.contiguous_format), 0.0
    if library := kernels_for(pruned):
        found, weights = torch.empty(len(pruned)), weights.float().contiguous()
        dense, pruned = dense.contiguous(), pruned.contiguous()
        wide = pruned.dtype == torch.float32
        outputs = (t.data_ptr() for t in (weights, slopes, found))
        library.sm_divergence(
            dense.data_ptr(), pruned.data_ptr(), wide, *pruned.shape, *outputs, torch.get_num_threads()
        )
        return slopes, float(found @ weights)
    for at in range(0, len(pruned), _AT_ONCE):
        rows = slice(at, at + _AT_ONCE)
        wanted, said = (logits[rows].float().log_softmax(-1) for logits in (dense, pruned))
        chance = wanted.exp()
        loss += float((chance * (wanted - said)).sum(-1) @ weights[rows])
        slopes[rows] = said.exp_().sub_(chance).mul_(weights[rows, None])
    return slopes, loss


def own_slopes(said: torch.Tensor, weights: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The gradient by logits (tokens, vocabulary) of -log p(label), labels drawn from them; weights are of squares."""
    slopes = torch.empty_like(said)
    for at in range(0, len(said), _AT_ONCE):
        rows = slice(at, at + _AT_ONCE)
        p = said[rows].float().softmax(-1)
        labels = p.multinomial(1, generator=chance)
        slopes[rows] = p.scatter_add_(1, labels, torch.full_like(p[:, :1], -1)).mul_(weights[rows, None].sqrt())
    return slopes


@contextmanager
def _in_place(twins: Sequence[Twin]) -> Iterator[None]:
    """The model computes with the sub-model's weights."""
    for twin in twins:
        twin.parameter.data = twin.masked.view(twin.parameter.shape)
    try:
        yield
    finally:
        for twin in twins:
            twin.parameter.data = twin.dense.view(twin.parameter.shape)
