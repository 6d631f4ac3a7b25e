"""Distil: move a mask, and nothing but the mask, along the gradient of what the whole sub-model loses.

Every weight has a score; a row, or a group of N:M, keeps those with the highest. The text is read once, in steps of
about five hundred tokens. In a step the dense model and the sub-model run on the same tokens, and the gradient of

    KL(dense || sub-model) + 20 * mean over the blocks of |h - h'|^2 / |h|^2, mean over the tokens,

h and h' the outputs of a block in the two, is taken by the sub-model's weights, dropped ones included, as if the mask
were not there. To first order, gradient times weight is what keeping that weight adds to the loss. Scores fall by it,
in units of its root mean square in a row:

    score  <-  score - rate * gradient * weight / rms,        and the mask is taken anew.

Scores begin as Wanda's, squared, in units of the row's mean and counted from the row's threshold, on the side of the
mask that the walk left: a weight changes sides when its pull over many steps outweighs what it seemed worth. Scores are
compared within a row only. Weights never change: where the start has weights of its own, what it keeps has those and
what comes back has the base's.

The gradient past the mask is the straight-through estimator (arXiv 1308.3432), scores over weights that stay as
they are edge-popup (arXiv 1911.13299), learnt masks of language models MaskLLM (arXiv 2409.17481), which samples them
and needs some thousand times the text. That this needs so little is measured (dev/notebook/methods.md), not explained.

The whole model is in memory, with about 14 bytes a prunable weight, 16 where the start has weights of its own, beside
a sample's activations.
"""

import ctypes
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers.modeling_utils import PreTrainedModel

from submodel.base import native
from submodel.base.weights import write_tensors
from submodel.calibration import Samples
from submodel.prune.gradients import DenseModel, Twin, in_parts, kernels_for, learn, sample
from submodel.prune.mask import Mask, Masks, pack_bits
from submodel.prune.sparsity import NM, Sparsity, keep_mask

STEP_TOKENS = 512  # at the same rate and text fewer are better: more steps (dev/LOG.md)
RATE = 0.0025
HIDDEN = 20.0  # what hidden states count for beside the divergence (dev/LOG.md)
_MEMORY = 0.95  # of a row's mean square, from step to step
_SAVED_EVERY = 300  # seconds
_SCORE_BYTES = 8  # a weight: its score, and room to choose by it


@dataclass(frozen=True)
class Distilled:
    """Masks as exact as the start's, and each step's divergence before it was taken, in nats a token.

    Weights of their own are read from the state's file.
    """

    masks: dict[str, Mask]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class _Matrix:
    """A prunable parameter with a score for each of its weights, in float32.

    `weights` (rows, cols) are those that the mask is taken of: the dense ones, or the start's own where it has some.
    `square` (rows, 1) is the mean square of gradient times weight so far. Scores and squares are changed in place.
    """

    twin: Twin
    sparsity: Sparsity
    scores: torch.Tensor
    square: torch.Tensor
    weights: torch.Tensor

    @property
    def has_new_weights(self) -> bool:
        """Its weights are not the dense ones."""
        return self.weights is not self.twin.dense

    def move(self, rate: float, step: int) -> None:
        """Lower the scores by the pull that the parameter's gradient shows; drop the gradient; take the mask anew."""
        gradient = self.twin.gradient()
        if gradient is None:  # an expert that no token reached
            return
        seen = 1 - _MEMORY ** (step + 1)
        if library := kernels_for(gradient):
            self._move(library, gradient.contiguous(), rate, seen)
            if not self.square.isfinite().all():
                self.keep()  # which refuses what is not a number
            return
        pull = gradient.float().mul_(self.weights)
        self.square.lerp_(pull.square().mean(1, keepdim=True), 1 - _MEMORY)
        size = (self.square / seen).sqrt_().clamp_(min=1e-30)
        self.scores.addcdiv_(pull, size, value=-rate)
        self.mask()

    def _move(self, library: Any, gradient: torch.Tensor, rate: float, seen: float) -> None:
        """All that in one pass over the rows: csrc/move.h."""
        (rows, cols), sparsity = gradient.shape, self.sparsity
        n, m = (sparsity.n, sparsity.m) if isinstance(sparsity, NM) else (0, 0)
        counts = torch.empty(0) if m else sparsity.removed_of_rows(rows, cols)
        tensors = (counts, gradient, self.weights, self.scores, self.square, self.twin.masked)
        numbers = (rows, cols, gradient.dtype == torch.float32, m, m - n)
        given = native.Move(*numbers, rate, _MEMORY, seen, *(tensor.data_ptr() for tensor in tensors))
        library.sm_move_scores(ctypes.byref(given), torch.get_num_threads())

    def mask(self) -> None:
        """Make the sub-model's weights what the scores say."""
        torch.mul(self.weights, self.keep(), out=self.twin.masked)

    def keep(self) -> torch.Tensor:
        """The mask that the scores make, bool (rows, cols)."""
        return keep_mask(self.scores - self.scores.amin(1, keepdim=True), self.sparsity)


def distil(
    dense: DenseModel,
    text: Samples,
    start: Masks,
    sparsity: Sparsity,
    *,
    state: Path,
    dtype: torch.dtype,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> Distilled:
    """Move a mask so that the sub-model says what the dense model says on a text.

    Args:
        dense: the dense model.
        text: read once, sample by sample.
        start: the mask to begin with, and the weights, if they are not the base's.
        sparsity: of the whole; each row keeps as many as in `start`.
        state: a file for what is done: written every few minutes and in the end, gone on from if it is there.
        dtype: of the weights that are kept, where they are not the base's.
        progress: told how many more tokens are done, a step at a time.
    """
    norms = dense.input_norms(text)
    with dense.reading(text) as model:
        # scores begin as Wanda's, or as an interrupted run left them
        matrices = _opened(model, norms, start, sparsity)
        twins = [matrix.twin for matrix in matrices.values()]
        losses = _restored(state, matrices)
        steps = steps_of(text)
        progress(sum(text.sizes[index] for step in steps[: len(losses)] for index in step))
        saved = time.monotonic()
        for step in range(len(losses), len(steps)):
            # the gradient of what the sub-model loses against the dense model on about 512 tokens
            texts = [sample(text, index) for index in steps[step]]
            total = float(sum(weights.sum() for _, weights in texts))
            losses.append(sum(learn(model, twins, ids, weights / total, hidden=HIDDEN) for ids, weights in texts))
            # scores fall by gradient times weight, and the masks are taken anew
            rate = RATE * (1 - step / len(steps))  # a lasting rate leaves weights near the threshold going to and fro
            for matrix in matrices.values():
                matrix.move(rate, step)
            progress(sum(len(ids) for ids, _ in texts))
            if time.monotonic() - saved > _SAVED_EVERY or step + 1 == len(steps):
                _save(state, matrices, losses, complete=step + 1 == len(steps))
                saved = time.monotonic()
        masks = {name: _mask(name, matrix, state, dtype) for name, matrix in matrices.items()}
    return Distilled(masks, tuple(losses))


def bytes_beside(dtype: torch.dtype, new_weights: bool) -> int:
    """Bytes a prunable weight that are in memory beside the dense model.

    They are its score, the sub-model's weight and its gradient; `new_weights`: and weights that are not the base's.
    """
    return _SCORE_BYTES + (3 if new_weights else 2) * dtype.itemsize


def first_scores(weight: torch.Tensor, keep: torch.Tensor, norms: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """Wanda's scores squared, in units of a row's mean and counted from its threshold, on the side of a mask.

    Args:
        weight, keep: (rows, cols).
        norms: squared norms of the inputs (cols,).
        sparsity: of the mask.

    Returns:
        float32 (rows, cols): not negative where kept, not positive where dropped.
    """
    squares = weight.float().square().mul_(norms)
    squares /= squares.mean(1, keepdim=True).clamp_(min=1e-30)
    last = (sparsity.removed_of_rows(*weight.shape) - 1).clamp(min=0)[:, None]
    in_order = np.sort(squares.cpu().numpy(), axis=1)  # several times as fast as torch's
    threshold = torch.from_numpy(np.take_along_axis(in_order, last.numpy(), axis=1))
    distance = squares.sub_(threshold.to(squares.device)).abs_()
    return torch.where(keep, distance, -distance)


def _opened(
    model: PreTrainedModel, norms: Mapping[str, torch.Tensor], start: Masks, sparsity: Sparsity
) -> dict[str, _Matrix]:
    matrices: dict[str, _Matrix] = {}
    for name, mask in start.items():
        parameter = model.get_parameter(name)
        parameter.requires_grad_()
        dense = parameter.data.view(-1, mask.cols)
        keep = torch.from_numpy(mask.unpack()).to(dense.device).view(dense.shape)
        kept = sparsity if isinstance(sparsity, NM) else replace(sparsity, counts=(~keep).sum(1).cpu())
        scores = first_scores(dense, keep, norms.get(name, torch.ones(mask.cols)).to(dense.device), kept)
        square = torch.zeros(len(dense), 1, device=dense.device)
        masked = mask.apply_to(parameter.data.clone()).view_as(dense)
        weights = dense if mask.values is None else torch.where(keep, masked, dense)
        matrices[name] = _Matrix(Twin(parameter, dense, masked), kept, scores, square, weights)
    return matrices


def steps_of(text: Samples) -> list[list[int]]:
    """The samples of each step."""
    return in_parts(text, STEP_TOKENS)


def _mask(name: str, matrix: _Matrix, state: Path, dtype: torch.dtype) -> Mask:
    keep = matrix.keep().view(matrix.twin.parameter.shape).cpu().numpy()
    mask = Mask(pack_bits(keep), keep.shape[-1])

    def values() -> torch.Tensor:
        with safe_open(state, framework="pt") as f:
            weights = f.get_tensor(f"{name} weights").to(dtype)
        return weights.view(-1)[torch.from_numpy(mask.unpack()).view(-1)]

    return replace(mask, values=values) if matrix.has_new_weights else mask


def _save(state: Path, matrices: Mapping[str, _Matrix], losses: list[float], *, complete: bool) -> None:
    """What `_restored` takes, and when all steps are done the weights, of which nothing else will remain."""
    tensors = {f"{name} scores": matrix.scores for name, matrix in matrices.items()}
    tensors |= {f"{name} square": matrix.square for name, matrix in matrices.items()}
    if complete:
        tensors |= {f"{name} weights": matrix.weights for name, matrix in matrices.items() if matrix.has_new_weights}
    partial = state.with_name(f"{state.name}.partial")
    write_tensors(partial, tensors, {"losses": json.dumps(losses)})
    os.replace(partial, state)


def _restored(state: Path, matrices: Mapping[str, _Matrix]) -> list[float]:
    """Take what an earlier run had done, if there is any; its losses."""
    if not state.exists():
        return []
    with safe_open(state, framework="pt") as f:
        for name, matrix in matrices.items():
            matrix.scores.copy_(f.get_tensor(f"{name} scores"))
            matrix.square.copy_(f.get_tensor(f"{name} square"))
            matrix.mask()
        return json.loads(f.metadata()["losses"])
