"""Sparsity moved from matrix to matrix, and from row to row, until one more weight wins as much everywhere.

What one more weight of a row costs the dense model (`sensitivity.row_costs`) says where to begin. It knows nothing of
errors that add up or make up for each other, so it is asked again where it counts, of the sub-model itself: the
gradient of KL(dense || sub-model) by the sub-model's weights, times those that would come back next, is to first order
by how much the loss falls with each of them in place. Rounds of that move the sparsity. A matrix keeps the more the
more a weight of it wins, against the mean; and all matrices together find how far rows that cost more should differ
from submodel.base.files import write_json
from submodel.base.files import write_json
from rows that cost less. Single rows are too many to be told apart by so little text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base.files import write_json
from submodel.base.matrices import all_matrices
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.prune.allocate.sensitivity import pruned, scores_of
from submodel.prune.allocate.spread import ROW_SLOPE, exact_rows, levels
from submodel.prune.gradients import Twin, in_parts, input_norms, learn, open_whole, sample
from submodel.prune.sparsity import Pattern, lowest

ROUNDS = 6
_ROUND_TOKENS = 4096
_BAND = 0.06  # of a row's weights: those that would come back next
_RATE = 0.07  # of a matrix's weights that come back, in the first round, for e times the mean gain; it falls linearly
_SLOPE_RATE = 0.1
_MEMORY = 0.5  # of the gains found so far, from round to round
_LEAST_GAIN = 0.15  # of the mean gain, that a matrix counts for: a small one's estimate may be below 0


@dataclass(frozen=True)
class Where:
    """How far the rounds have come.

    Attributes:
        more: of each matrix, the fraction of its weights that it keeps beyond the mean.
        slope: the fraction that a row keeps beyond its matrix for e times the cost.
        gains: of each matrix, what a weight that comes back wins, averaged over the rounds so far, the last for most.
        rounds: that are done.
    """

    more: list[float]
    slope: float
    gains: list[float]
    rounds: int = 0


def rounds_of(text: Samples) -> list[slice]:
    """The samples of each round; from the beginning again where the text is short."""
    parts = in_parts(text, _ROUND_TOKENS)
    return [slice(part[0], part[-1] + 1) for part in (parts[index % len(parts)] for index in range(ROUNDS))]


def balanced(
    base: Base,
    text: Samples,
    costs: Mapping[str, np.ndarray],
    pattern: Pattern,
    *,
    dtype: torch.dtype,
    device: str,
    state: Path,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, list[int]]:
    """Where one more weight wins as much in every matrix.

    Args:
        base: the base model.
        text: the domain's.
        costs: what `sensitivity.row_costs` has found; other matrices lose as much of every row.
        pattern: what to remove of the whole.
        dtype, device: of the arithmetic.
        state: a file for what is done, gone on from if it is there.
        progress: told how many more tokens are done.

    Returns:
        Matrix -> how many weights each of its rows loses; together as many as `pattern` of every row.
    """
    model = open_whole(base, text, dtype, device)
    names = [matrix.name for matrix in all_matrices(model)]
    cols = [model.get_parameter(name).shape[-1] for name in costs]
    level = levels(list(costs.values()), cols)
    sizes = [len(own) * width for own, width in zip(level, cols, strict=True)]
    apart = [own - own.mean() for own in level]
    where = Where([ROW_SLOPE * float(own.mean()) for own in level], ROW_SLOPE, [0.0] * len(level))
    if state.exists():
        where = Where(**json.loads(state.read_text()))
    rounds = rounds_of(text)
    progress(sum(sum(text.sizes[part]) for part in rounds[: where.rounds]))
    norms = input_norms(model, names, text)
    for part in rounds[where.rounds :]:
        removed = _removed(where, apart, cols, pattern)
        counts = {
            name: replace(pattern, counts=torch.from_numpy(own)) for name, own in zip(costs, removed, strict=True)
        }
        won = gains(model, text.take(part), dict.fromkeys(names, pattern) | counts, norms, progress)
        found = [won[name] for name in costs]
        where = moved(where, found, apart, sizes)
        write_json(state, asdict(where))
    removed = _removed(where, apart, cols, pattern)
    return {name: own.tolist() for name, own in zip(costs, removed, strict=True)}


def gains(
    model: PreTrainedModel,
    text: Samples,
    patterns: Mapping[str, Pattern],
    norms: Mapping[str, torch.Tensor],
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """What a weight that comes back wins, to first order.

    Args:
        model: the dense model.
        text: all of it is read.
        patterns: what each of its matrices loses, by Wanda's scores.
        norms: squared norms of the inputs of linears (cols,).
        progress: told how many more tokens are done.

    Returns:
        Matrix -> nats a token (rows,), the mean over the weights of a row that would come back next; 0 where none is
        gone.
    """
    twins = {name: pruned(model.get_parameter(name), norms.get(name), own) for name, own in patterns.items()}
    texts = [sample(text, index) for index in range(len(text.ids))]
    whole = float(sum(weights.sum() for _, weights in texts))
    for ids, weights in texts:
        learn(model, twins.values(), ids, weights / whole)
        progress(len(ids))
    return {name: _gain(twin, norms.get(name), patterns[name]) for name, twin in twins.items()}


def _gain(twin: Twin, norms: torch.Tensor | None, pattern: Pattern) -> np.ndarray:
    gradient = twin.gradient()
    if gradient is None:
        return np.zeros(len(twin.dense))
    rows, cols = twin.dense.shape
    counts = pattern.removed_of(rows, cols)
    further = (counts - max(1, int(_BAND * cols))).clamp(min=0)
    others = lowest(scores_of(twin.dense, norms), further) | (twin.masked != 0)  # a weight of 0 has no pull
    pull = gradient.float().mul_(twin.dense).masked_fill_(others, 0)
    return -pull.sum(1, dtype=torch.float64).cpu().numpy() / (counts - further).clamp(min=1).numpy()


def moved(where: Where, found: Sequence[np.ndarray], apart: Sequence[np.ndarray], sizes: Sequence[int]) -> Where:
    """After one more round.

    Args:
        where: before it.
        found: of each matrix, what a weight that comes back wins in each row (rows,).
        apart: of each matrix, how far the logarithm of each row's cost lies from their mean (rows,).
        sizes: weights of each matrix.
    """
    before = _MEMORY * (1 - _MEMORY**where.rounds) / (1 - _MEMORY)  # what the earlier rounds count for
    gains = (before * np.array(where.gains) + [own.mean() for own in found]) / (before + 1)
    mean, more, slope = float(np.average(gains, weights=sizes)), np.array(where.more), where.slope
    if mean > 0:
        more += _RATE * (1 - where.rounds / ROUNDS) * np.log(np.maximum(gains / mean, _LEAST_GAIN))
        near = [np.clip(own, -2, 2) for own in apart]
        rises = [(own / mean * off).mean() for own, off in zip(found, near, strict=True)]
        spread = float(np.average([off.var() for off in near], weights=sizes))
        slope += _SLOPE_RATE * float(np.average(rises, weights=sizes)) / max(spread, 1e-30)
    return Where(more.tolist(), slope, gains.tolist(), where.rounds + 1)


def _removed(where: Where, apart: Sequence[np.ndarray], cols: Sequence[int], pattern: Pattern) -> list[np.ndarray]:
    each = [more + where.slope * own for more, own in zip(where.more, apart, strict=True)]
    return exact_rows(each, cols, pattern.sparsity)
