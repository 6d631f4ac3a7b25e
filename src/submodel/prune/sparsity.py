"""Which weights stay: exactly so many a row (unstructured), as many in each or not, or N of every M consecutive (N:M).

Ties are broken as a stable ascending sort does: of equal scores the one further left is removed first.
"""

import re
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from submodel.errors import SubmodelError

_CHUNK = 1 << 20  # scores at a time; 4 MiB in float32


@dataclass(frozen=True)
class Pattern:
    """How many weights are removed from a row.

    Attributes:
        sparsity: the fraction removed; int(cols * sparsity) of a row, or 1 - n/m.
        n, m: keep n of every m consecutive weights; 0, 0 for unstructured.
        counts: int (rows,) of a matrix whose rows do not lose as many each: how many; then the sparsity is their mean.
    """

    sparsity: float
    n: int = 0
    m: int = 0
    counts: torch.Tensor | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else "unstructured"

    def __getitem__(self, rows: slice) -> "Pattern":
        """Of some rows of the matrix."""
        return self if self.counts is None else replace(self, counts=self.counts[rows])

    def removed_of(self, rows: int, cols: int) -> torch.Tensor:
        """How many weights each row of a matrix loses, int (rows,)."""
        return torch.full((rows,), self.removed(cols)) if self.counts is None else self.counts

    def removed(self, cols: int) -> int:
        """How many of `cols` weights of a row are removed, where rows lose as many each."""
        if not self.m:
            return int(cols * self.sparsity)
        return cols // self.m * (self.m - self.n) + cols % self.m * (self.m - self.n) // self.m


def parse_pattern(sparsity: float | None, pattern: str | None) -> Pattern:
    """The options `--sparsity` and `--pattern` -> Pattern; both absent means half of every row.

    Raises SubmodelError for a sparsity outside 0..1, a pattern that is not N:M with 0 < N < M, or two that disagree.
    """
    if sparsity is not None and not 0 <= sparsity < 1:
        raise SubmodelError(f"sparsity {sparsity:g}: give the fraction to remove, from 0 to less than 1, such as 0.5")
    if pattern is None or pattern == "unstructured":
        return Pattern(0.5 if sparsity is None else sparsity)
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    n, m = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 < n < m <= 64:
        raise SubmodelError(f"pattern {pattern!r}: give N:M with N kept of M and 0 < N < M <= 64, such as 2:4 or 4:8")
    if sparsity is not None and sparsity != 1 - n / m:
        raise SubmodelError(f"pattern {pattern} removes {1 - n / m:g}, but sparsity {sparsity:g} was given: drop one")
    return Pattern(1 - n / m, n, m)


def keep_mask(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The mask that keeps the highest scores of every row.

    Args:
        scores: float32 (rows, cols), not negative.
        pattern: what to remove.

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
        if pattern.counts is not None:
            keep[part] = ~_lowest(values[part], pattern.counts[part].numpy())
        else:
            keep[part] = _keep_groups(values[part], pattern) if pattern.m else _keep_rows(values[part], pattern)
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
    keys, wanted = scores.view(np.int32), counts[:, None]  # not negative, so the bit patterns sort as integers
    threshold = np.take_along_axis(np.sort(keys, axis=1), np.maximum(wanted - 1, 0), axis=1)
    found = keys < threshold
    tied = keys == threshold
    return found | tied & (np.cumsum(tied, axis=1) <= wanted - found.sum(axis=1, keepdims=True))


def _keep_rows(scores: np.ndarray, pattern: Pattern) -> np.ndarray:
    removed = pattern.removed(scores.shape[1])
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


def _keep_groups(scores: np.ndarray, pattern: Pattern) -> np.ndarray:
    rows, cols = scores.shape
    whole = cols // pattern.m * pattern.m
    keep = np.empty(scores.shape, dtype=bool)
    groups = scores[:, :whole].reshape(rows, -1, pattern.m)
    keep[:, :whole] = (_ranks(groups) >= pattern.m - pattern.n).reshape(rows, whole)
    tail = scores[:, whole:]
    keep[:, whole:] = _ranks(tail) >= tail.shape[1] * (pattern.m - pattern.n) // pattern.m
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
