"""Sparsities of parts of a model from what was found of each; together they remove what was asked."""

from collections.abc import Callable, Sequence

import numpy as np

from submodel.prune.sparsity import Pattern

Shapes = Sequence[tuple[int, int]]
"""(rows, cols) of each matrix of a part; (experts x rows, cols) for a mixture."""

_WIDTH = 0.08  # OWL's lambda
_SLOPE = 0.1  # sparsity less for e times the cost a weight (docs/methods.md)
ROW_SLOPE = 0.06  # sparsity of a row less for e times the cost of one more weight (dev/LOG.md)
_LEAST_KEPT = 0.05  # of what a row would keep if all kept as many
_REACH = 0.6  # of the way to 0 and to 1, the nearer of them


def linear(scores: Sequence[float], shapes: Sequence[Shapes], sparsity: float, width: float = _WIDTH) -> list[float]:
    """Kept fractions linear in the scores, 2 x width apart (OWL, arXiv 2310.05175).

    Args:
        scores: one of each part; the higher, the more of it is kept.
        shapes: of each part.
        sparsity: of the whole.
        width: OWL's lambda; less where a part would lose all or gain weights.

    Returns:
        One sparsity a part, as `exact` has it.
    """
    width = min(width, sparsity / 2, (1 - sparsity) / 2)
    found = np.array(scores)
    extent = float(np.ptp(found))
    kept = (found - found.min()) / extent * 2 * width if extent else np.zeros(len(found))
    return exact(sparsity - (kept - np.average(kept, weights=_sizes(shapes))), shapes, sparsity)


def logarithmic(costs: Sequence[float], shapes: Sequence[Shapes], sparsity: float) -> list[float]:
    """Less goes where it costs more: a sparsity falls by 0.1 for every factor of e in the cost a weight.

    What one more weight costs grows about e-fold in a fifth of the weights, those of a Gaussian matrix being removed
    in their order; to make it the same everywhere would be a slope of 0.2. Half of that, as costs are estimates.

    Args:
        costs: what removing `sparsity` of each part costs; not above 0 counts as next to nothing.
        shapes: of each part.
        sparsity: of the whole.

    Returns:
        One sparsity a part, as `exact` has it.
    """
    each = np.array(costs) / _sizes(shapes)
    middle = float(np.median(each[each > 0])) if (each > 0).any() else 1.0
    reach = _REACH * min(sparsity, 1 - sparsity)
    less = np.clip(_SLOPE * np.log(np.maximum(each / middle, 1e-9)), -reach, reach)
    return exact(sparsity - less, shapes, sparsity)


def by_rows(costs: Sequence[np.ndarray], cols: Sequence[int], sparsity: float) -> list[np.ndarray]:
    """Fewer weights go of the rows in which one more costs more.

    Args:
        costs: of each matrix, (rows,): what one more weight costs.
        cols: of each matrix.
        sparsity: of the whole.

    Returns:
        As `exact_rows`.
    """
    return exact_rows([ROW_SLOPE * level for level in levels(costs, cols)], cols, sparsity)


def levels(costs: Sequence[np.ndarray], cols: Sequence[int]) -> list[np.ndarray]:
    """The logarithms of what one more weight of each row costs, of each matrix (rows,), less their mean a weight."""
    each = np.concatenate(costs)
    level = np.log(np.maximum(each, each.max(initial=0) * 1e-12 or 1.0))
    level -= np.average(level, weights=_wide(costs, cols))
    return _apart(level, costs)


def exact_rows(more: Sequence[np.ndarray], cols: Sequence[int], sparsity: float) -> list[np.ndarray]:
    """How many weights each row loses that keeps so much more than the mean does.

    Args:
        more: of each matrix, (rows,), as a fraction of the row; all are moved by the same amount to fit.
        cols: of each matrix.
        sparsity: of the whole.

    Returns:
        int64 (rows,) of each matrix; together as many as int(cols * sparsity) of every row.
    """
    wide, each = _wide(more, cols), np.concatenate(more)
    asked = int((wide * sparsity).astype(np.int64).sum())
    most = (wide * (1 - (1 - sparsity) * _LEAST_KEPT)).astype(np.int64)

    def removed(shift: float) -> np.ndarray:
        return np.clip((wide * (shift - each)).astype(np.int64), 0, most)

    low, high = _bracket(lambda shift: removed(shift).sum(), asked, 10.0)
    found, next_ = removed(low), np.flatnonzero(removed(high) > removed(low))
    found[next_[: asked - found.sum()]] += 1
    return _apart(found, more)


def exact(wanted: np.ndarray, shapes: Sequence[Shapes], sparsity: float) -> list[float]:
    """`wanted`, all moved by the same amount, so that the whole loses what `sparsity` of every row would be.

    Returns:
        One sparsity a part, from 0 to 1. The weights they remove together, int(cols * sparsity) of every row, are as
        many as `sparsity` everywhere removes, or fewer by less than the most rows of equal length in a part.
    """

    def removed(sparsities: np.ndarray) -> np.ndarray:
        each = zip(sparsities, shapes, strict=True)
        return np.array([sum(rows * Pattern(float(s)).removed(cols) for rows, cols in part) for s, part in each])

    asked = removed(np.full(len(wanted), sparsity)).sum()
    low, high = _bracket(lambda shift: removed(np.clip(wanted + shift, 0, 1)).sum(), asked, 1.0)
    found, next_ = np.clip(wanted + low, 0, 1), np.clip(wanted + high, 0, 1)
    left = asked - removed(found).sum()
    for part, more in enumerate(removed(next_) - removed(found)):  # those that take their next step at once
        if 0 < more <= left:
            found[part] = next_[part]
            left -= more
    return [float(s) for s in found]


def _bracket(removed: Callable[[float], int], asked: int, reach: float) -> tuple[float, float]:
    """A shift of all, at most `reach` either way, that removes too little or enough, and one next to it, too much."""
    low, high = -reach, reach
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(middle) <= asked else (low, middle)
    return low, high


def _wide(each: Sequence[np.ndarray], cols: Sequence[int]) -> np.ndarray:
    """The columns of each row of all matrices."""
    return np.concatenate([np.full(len(own), width) for own, width in zip(each, cols, strict=True)])


def _apart(rows: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(own) for own in like])[:-1])


def _sizes(shapes: Sequence[Shapes]) -> np.ndarray:
    return np.array([sum(rows * cols for rows, cols in part) for part in shapes])
