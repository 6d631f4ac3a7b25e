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

NORM_TOKENS = 8192
RUNS = 4  # of a block, that a token of gradients costs: dense, masked, and twice as much for the gradient
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


class DenseModel:
    """The dense model in memory for all gradient steps of an extraction, and the norms of its matrices' inputs.

    Args:
        base: the base model.
        dtype, device: of the arithmetic.

    Attributes:
        model: the model; between two steps no gradient is asked of anything and its weights are the dense ones.
        matrices: the names of its prunable matrices.
    """

    def __init__(self, base: Base, dtype: torch.dtype, device: str):
        self.model: PreTrainedModel = base.load(dtype, device).requires_grad_(False)
        self.matrices = [matrix.name for matrix in all_matrices(self.model)]
        self._device = device
        self._attention = self.model.config._attn_implementation or "eager"
        self._norms: dict[str, dict[str, torch.Tensor]] = {}

    @contextmanager
    def reading(self, text: Samples) -> Iterator[PreTrainedModel]:
        """The model, its attention as suits the gradient of such samples; afterwards no gradient is asked of it."""
        plain = self._device == "cpu" and text.ids.shape[1] <= _PLAIN
        attention = "eager" if plain else self._attention
        if self.model.config._attn_implementation != attention:
            self.model.set_attn_implementation(attention)
        try:
            yield self.model
        finally:
            for parameter in self.model.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def input_norms(self, text: Samples) -> dict[str, torch.Tensor]:
        """`input_norms` of all matrices; computed once for the same beginning of a text."""
        key = text.first(NORM_TOKENS).digest
        if key not in self._norms:
            with self.reading(text) as model:
                self._norms[key] = input_norms(model, self.matrices, text)
        return self._norms[key]


def memory_of_gradients(base: Base, dtype: torch.dtype, beside: int) -> int:
    """Bytes that the whole model takes with its gradients.

    Args:
        base: the base model.
        dtype: of the arithmetic.
        beside: bytes a prunable weight that are needed beside the model.
    """
    prunable = sum(matrix.weight.numel() for matrix in all_matrices(base.skeleton(dtype)))
    return dtype.itemsize * base.parameters + beside * prunable


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fits(base: Base, dtype: torch.dtype, device: str, beside: int) -> bool:
    """Whether this machine's memory holds the whole model with its gradients; of another device it is not known."""
    return device != "cpu" or memory_of_gradients(base, dtype, beside) <= machine_memory()


def check_fits(base: Base, dtype: torch.dtype, device: str, *, beside: int, instead: str) -> None:
    """Raises SubmodelError for a model that does not fit (see `fits`); `instead` is what to give, for the message."""
    if not fits(base, dtype, device, beside):
        raise SubmodelError(
            f"{base.reference}: the gradients need {memory_of_gradients(base, dtype, beside) / 2**30:.1f} GiB, this "
            f"machine has {machine_memory() / 2**30:.1f}: give {instead}"
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
        if tokens >= NORM_TOKENS:  # as many samples as `Samples.first` takes
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
            for expected, state in states:
                outputs.append(state[0])
                gradients.append(_drift(expected[0], state[0].detach(), weights * (hidden / len(states))))
        torch.autograd.backward(outputs, gradients)
    return loss


def _run(model: PreTrainedModel, ids: torch.Tensor, hidden: bool) -> Any:
    return model(input_ids=ids[None], use_cache=False, output_hidden_states=hidden)


def _drift(expected: torch.Tensor, state: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The gradient by `state` (tokens, features) of the sum of weight times |expected - state|^2 / |expected|^2."""
    size = expected.float().square().sum(-1).clamp_(min=1e-30)
    return (state.float() - expected).mul_((2 * weights / size)[:, None]).to(state.dtype)


def _divergence(dense: torch.Tensor, pruned: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """KL(dense || pruned) of logits (tokens, vocabulary), weighted and summed, and its gradient by `pruned`."""
    slopes, loss = torch.empty_like(pruned, memory_format=torch.contiguous_format), 0.0
    if library := kernels_for(pruned):
        losses, weights = torch.empty(len(pruned)), weights.float().contiguous()
        dense, pruned = dense.contiguous(), pruned.contiguous()
        wide = pruned.dtype == torch.float32
        outputs = (t.data_ptr() for t in (weights, slopes, losses))
        library.sm_divergence(
            dense.data_ptr(), pruned.data_ptr(), wide, *pruned.shape, *outputs, torch.get_num_threads()
        )
        return slopes, float(losses @ weights)
    for at in range(0, len(pruned), _AT_ONCE):
        rows = slice(at, at + _AT_ONCE)
        expected, actual = (logits[rows].float().log_softmax(-1) for logits in (dense, pruned))
        chance = expected.exp()
        loss += float((chance * (expected - actual)).sum(-1) @ weights[rows])
        slopes[rows] = actual.exp_().sub_(chance).mul_(weights[rows, None])
    return slopes, loss


def sampled_label_slopes(logits: torch.Tensor, weights: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The gradient by logits (tokens, vocabulary) of -log p(label), labels drawn from them; weights are of squares."""
    slopes = torch.empty_like(logits)
    for at in range(0, len(logits), _AT_ONCE):
        rows = slice(at, at + _AT_ONCE)
        p = logits[rows].float().softmax(-1)
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
