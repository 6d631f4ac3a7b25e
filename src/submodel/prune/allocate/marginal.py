"""Sparsity moved from matrix to matrix, and from row to row, until one more weight wins as much everywhere.

What one more weight of a row costs the dense model (`rows.row_costs`) says where to begin. It knows nothing of
errors that add up or make up for each other, so it is asked again where it counts, of the sub-model itself: the
gradient of KL(dense || sub-model) by the sub-model's weights, times those that would come back next, is to first order
by how much the loss falls with each of them in place. Rounds of that move the sparsity. A matrix keeps the more the
more a weight of it wins, against the mean; and all matrices together find how far rows that cost more should differ
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
from submodel.calibration import Samples
from submodel.prune.allocate.allocation import Allocation
from submodel.prune.allocate.rows import ROW_SLOPE, exact_counts, kept_row_costs, levels, tokens_read
from submodel.prune.gradients import DenseModel, Twin, in_parts, learn, sample
from submodel.prune.sparsity import RowSparsity, Sparsity, keep_mask, lowest

ROUNDS = 6
_ROUND_TOKENS = 4096
_BAND = 0.06  # of a row's weights: those that would come back next
_RATE = 0.07  # of a matrix's weights that come back, in the first round, for e times the mean gain; it falls linearly
_SLOPE_RATE = 0.1
_MEMORY = 0.5  # of the gains found so far, from round to round
_LEAST_GAIN = 0.15  # of the mean gain, that a matrix counts for: a small one's estimate may be below 0


@dataclass(frozen=True)
class Rounds:
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


def balanced_counts(
    dense: DenseModel,
    text: Samples,
    costs: Mapping[str, np.ndarray],
    sparsity: RowSparsity,
    *,
    state: Path,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """Where one more weight wins as much in every matrix.

    Args:
        dense: the dense model.
        text: the domain's.
        costs: of `rows.row_costs`; other matrices lose as much of every row.
        sparsity: what to remove of every row, were all alike.
        state: a file for what is done, gone on from if it is there.
        progress: told how many more tokens are done.

    Returns:
        Matrix -> int64 (rows,), how many weights each of its rows loses; together as many as `sparsity` of every row.
    """
    # begin where the costs of rows in the dense model say
    cols = [dense.model.get_parameter(name).shape[-1] for name in costs]
    level = levels(list(costs.values()), cols)
    sizes = [len(rows) * width for rows, width in zip(level, cols, strict=True)]
    apart = [rows - rows.mean() for rows in level]
    rounds_done = Rounds([ROW_SLOPE * float(rows.mean()) for rows in level], ROW_SLOPE, [0.0] * len(level))
    if state.exists():
        rounds_done = Rounds(**json.loads(state.read_text()))
    rounds = rounds_of(text)
    progress(sum(sum(text.sizes[part]) for part in rounds[: rounds_done.rounds]))

    # a round: prune by the counts so far, ask the sub-model what each matrix wins, move sparsity between matrices
    norms = dense.input_norms(text)
    for part in rounds[rounds_done.rounds :]:
        counts = _counts(rounds_done, apart, cols, sparsity)
        sparsities: dict[str, RowSparsity] = dict.fromkeys(dense.matrices, sparsity)
        for name, rows in zip(costs, counts, strict=True):
            sparsities[name] = replace(sparsity, counts=torch.from_numpy(rows))
        excerpt = text.take(part)
        with dense.reading(excerpt) as model:
            won = gains(model, excerpt, sparsities, norms, progress)
        rounds_done = moved(rounds_done, [won[name] for name in costs], apart, sizes)
        write_json(state, asdict(rounds_done))
    return dict(zip(costs, _counts(rounds_done, apart, cols, sparsity), strict=True))


def gains(
    model: PreTrainedModel,
    text: Samples,
    sparsities: Mapping[str, Sparsity],
    norms: Mapping[str, torch.Tensor],
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """What a weight that comes back wins, to first order.

    Args:
        model: the dense model.
        text: all of it is read.
        sparsities: what each of its matrices loses, by Wanda's scores.
        norms: squared norms of the inputs of linears (cols,).
        progress: told how many more tokens are done.

    Returns:
        Matrix -> nats a token (rows,), the mean over the weights of a row that would come back next; 0 where none is
        gone.
    """
    twins = {name: _pruned(model.get_parameter(name), norms.get(name), s) for name, s in sparsities.items()}
    texts = [sample(text, index) for index in range(len(text.ids))]
    total = float(sum(weights.sum() for _, weights in texts))
    for ids, weights in texts:
        learn(model, twins.values(), ids, weights / total)
        progress(len(ids))
    return {name: _gain(twin, norms.get(name), sparsities[name]) for name, twin in twins.items()}


def _gain(twin: Twin, norms: torch.Tensor | None, sparsity: Sparsity) -> np.ndarray:
    gradient = twin.gradient()
    if gradient is None:
        return np.zeros(len(twin.dense))
    rows, cols = twin.dense.shape
    counts = sparsity.removed_of_rows(rows, cols)
    further = (counts - max(1, int(_BAND * cols))).clamp(min=0)
    others = lowest(_scores(twin.dense, norms), further) | (twin.masked != 0)  # a weight of 0 has no pull
    pull = gradient.float().mul_(twin.dense).masked_fill_(others, 0)
    return -pull.sum(1, dtype=torch.float64).cpu().numpy() / (counts - further).clamp(min=1).numpy()


def moved(before: Rounds, won: Sequence[np.ndarray], apart: Sequence[np.ndarray], sizes: Sequence[int]) -> Rounds:
    """After one more round.

    Args:
        before: the rounds so far.
        won: of each matrix, what a weight that comes back wins in each row (rows,).
        apart: of each matrix, how far the logarithm of each row's cost lies from their mean (rows,).
        sizes: weights of each matrix.
    """
    weight = _MEMORY * (1 - _MEMORY**before.rounds) / (1 - _MEMORY)  # what the earlier rounds count for
    gains = (weight * np.array(before.gains) + [rows.mean() for rows in won]) / (weight + 1)
    mean, more, slope = float(np.average(gains, weights=sizes)), np.array(before.more), before.slope
    if mean > 0:
        more += _RATE * (1 - before.rounds / ROUNDS) * np.log(np.maximum(gains / mean, _LEAST_GAIN))
        near = [np.clip(rows, -2, 2) for rows in apart]
        rises = [(rows / mean * off).mean() for rows, off in zip(won, near, strict=True)]
        spread = float(np.average([off.var() for off in near], weights=sizes))
        slope += _SLOPE_RATE * float(np.average(rises, weights=sizes)) / max(spread, 1e-30)
    return Rounds(more.tolist(), slope, gains.tolist(), before.rounds + 1)


def _counts(
    rounds: Rounds, apart: Sequence[np.ndarray], cols: Sequence[int], sparsity: RowSparsity
) -> list[np.ndarray]:
    each = [more + rounds.slope * rows for more, rows in zip(rounds.more, apart, strict=True)]
    return exact_counts(each, cols, sparsity.fraction)


def _scores(dense: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """Wanda's scores, float32 (rows, cols), from the squared norms of the inputs (cols,); stacked experts have none."""
    scores = dense.float().abs()
    return scores if norms is None else scores.mul_(norms.sqrt())


def _pruned(parameter: torch.nn.Parameter, norms: torch.Tensor | None, sparsity: Sparsity) -> Twin:
    """A parameter and its sub-model's, by `_scores`; a gradient is asked of it."""
    parameter.requires_grad_()
    dense = parameter.data.view(-1, parameter.shape[-1])
    return Twin(parameter, dense, dense * keep_mask(_scores(dense, norms), sparsity))


def _balanced(
    dense: DenseModel, text: Samples, sparsity: RowSparsity, folder: Path, progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    costs = kept_row_costs(dense, text, sparsity, folder, progress)
    return balanced_counts(dense, text, costs, sparsity, state=folder / "rounds.json", progress=progress)


def _tokens(text: Samples) -> int:
    return tokens_read(text) + sum(sum(text.sizes[part]) for part in rounds_of(text))


MARGINAL = Allocation(
    "rows, and then matrices, until one more weight wins as much in each", _balanced, _tokens, weights_beside=2
)
