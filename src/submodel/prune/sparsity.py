"""How many weights of a matrix stay, and which: exactly so many of each row, or N of every M consecutive ones (N:M).

Ties are broken as a stable ascending sort does: of equal scores the leftmost is removed first.
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from submodel.errors import SubmodelError

_CHUNK = 1 << 20  # scores at a time; 4 MiB in float32


@dataclass(frozen=True)
class RowSparsity:
    """So many weights are removed of every row (unstructured).

    Attributes:
        fraction: of a row that is removed, int(cols * fraction) weights; with `counts` the mean over the matrix.
        counts: int (rows,) of a matrix whose rows do not lose equally many: how many each loses.
    """

    fraction: float
    counts: torch.Tensor | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return "unstructured"

    def __getitem__(self, rows: slice) -> "RowSparsity":
        """The sparsity of some rows of the matrix."""
        return self if self.counts is None else replace(self, counts=self.counts[rows])

    def removed(self, cols: int) -> int:
        """How many of the `cols` weights of a row are removed, where rows lose equally many."""
        return int(cols * self.fraction)

    def removed_of_rows(self, rows: int, cols: int) -> torch.Tensor:
        """How many weights each row of a matrix loses, int (rows,)."""
        return torch.full((rows,), self.removed(cols)) if self.counts is None else self.counts


@dataclass(frozen=True)
class NM:
    """N of every M consecutive weights of a row are kept; of a last, shorter group in proportion."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def __getitem__(self, rows: slice) -> "NM":
        """The sparsity of some rows of the matrix."""
        return self

    @property
    def fraction(self) -> float:
        """The fraction of a row that is removed."""
        return 1 - self.n / self.m

    def removed(self, cols: int) -> int:
        """How many of the `cols` weights of a row are removed."""
        return cols // self.m * (self.m - self.n) + cols % self.m * (self.m - self.n) // self.m

    def removed_of_rows(self, rows: int, cols: int) -> torch.Tensor:
        """How many weights each row of a matrix loses, int (rows,)."""
        return torch.full((rows,), self.removed(cols))


Sparsity = RowSparsity | NM


def parse_sparsity(fraction: float | None, sparsity: str | None) -> Sparsity:
    """The options `--sparsity` and `--pattern`; without either, half of every row is removed.

    Raises SubmodelError for a fraction outside 0..1, a pattern that is not N:M with 0 < N < M, or two that disagree.
    """
    if fraction is not None and not 0 <= fraction < 1:
        raise SubmodelError(f"sparsity {fraction:g}: give the fraction to remove, from 0 to less than 1, such as 0.5")
    if sparsity is None or sparsity == "unstructured":
        return RowSparsity(0.5 if fraction is None else fraction)
    match = re.fullmatch(r"(\d+):(\d+)", sparsity)
    n, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < n < m <= 64:
        raise SubmodelError(f"pattern {sparsity!r}: give N:M with N kept of M and 0 < N < M <= 64, such as 2:4 or 4:8")
    if fraction is not None and fraction != 1 - n / m:
        raise SubmodelError(f"pattern {sparsity} removes {1 - n / m:g}, but sparsity {fraction:g} was given: drop one")
    return NM(n, m)


def keep_mask(scores: torch.Tensor, sparsity: Sparsity) -> torch.Tensor:
    """The mask that keeps the highest scores of every row.

    Args:
        scores: float32 (rows, cols), not negative.
        sparsity: what to remove.

    Returns:
        bool (rows, cols), True = kept.

    Raises:
        SubmodelError: a score is not a number.
    """
    values = scores.contiguous().cpu().numpy()
    if np.isnan(values.max(initial=0.0)):
        raise SubmodelError("a score is not a number: the weights or the activations overflow; try --dtype float32")
    keep = np.empty(values.shape, dtype=bool)
    step = max(1, _CHUNK // max(1, values.shape[1]))
    for at in range(0, len(values), step):
        part = slice(at, at + step)
        if isinstance(sparsity, NM):
            keep[part] = _keep_groups(values[part], sparsity)
        elif sparsity.counts is not None:
            keep[part] = ~_lowest(values[part], sparsity.counts[part].numpy())
        else:
            keep[part] = _keep_rows(values[part], sparsity.removed(values.shape[1]))
    return torch.from_numpy(keep).to(scores.device)


def lowest(scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The lowest scores of every row, not as many of each.

    Args:
        scores: float32 (rows, cols), not negative.
        counts: int (rows,), how many of each row.

    Returns:
        bool (rows, cols).
    """
    return torch.from_numpy(_lowest(scores.contiguous().cpu().numpy(), counts.cpu().numpy())).to(scores.device)


def _lowest(scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    keys, number = scores.view(np.int32), counts[:, None]  # not negative, so the bit patterns sort as integers
    threshold = np.take_along_axis(np.sort(keys, axis=1), np.maximum(number - 1, 0), axis=1)
    below = keys < threshold
    tied = keys == threshold
    return below | tied & (np.cumsum(tied, axis=1) <= number - below.sum(axis=1, keepdims=True))


def _keep_rows(scores: np.ndarray, removed: int) -> np.ndarray:
    if not removed:
        return np.ones(scores.shape, dtype=bool)
    # not negative, so the bit patterns sort as integers, which numpy selects fastest
    keys = scores.view(np.int32)
    threshold = np.partition(keys, removed - 1, axis=1)[:, removed - 1 : removed]
    keep = keys > threshold
    tied = keys == threshold
    kept_ties = scores.shape[1] - removed - keep.sum(axis=1)
    for row in np.flatnonzero(kept_ties):
        keep[row, np.flatnonzero(tied[row])[-kept_ties[row] :]] = True
    return keep


def _keep_groups(scores: np.ndarray, sparsity: NM) -> np.ndarray:
    rows, cols = scores.shape
    grouped = cols // sparsity.m * sparsity.m
    keep = np.empty(scores.shape, dtype=bool)
    groups = scores[:, :grouped].reshape(rows, -1, sparsity.m)
    keep[:, :grouped] = (_ranks(groups) >= sparsity.m - sparsity.n).reshape(rows, grouped)
    tail = scores[:, grouped:]
    keep[:, grouped:] = _ranks(tail) >= tail.shape[1] * (sparsity.m - sparsity.n) // sparsity.m
    return keep


def _ranks(groups: np.ndarray) -> np.ndarray:
    """Position of every element of the last axis in its stable ascending order."""
    rank = np.zeros(groups.shape, dtype=np.uint8)
    for i in range(groups.shape[-1]):
        for j in range(groups.shape[-1]):
            if i < j:
                rank[..., j] += groups[..., i] <= groups[..., j]
            elif i > j:
                rank[..., j] += groups[..., i] < groups[..., j]
    return rank
