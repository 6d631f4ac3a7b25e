"""The packed formats: all that is known of each stands in its one entry of FORMATS.

An entry says how one stored weight is written (its encoding), which weights are stored, and which kernels of csrc/ know
it. Lists of formats, size estimates and checks all follow from the table. Layouts are specified in
docs/reference/format.md.

A new format is an entry here (with an encoding, if no other one fits), a number in csrc/submodel.h, the shared facts
in csrc/kernels.h and its loops in csrc/reference.cpp. One without a number (`code` None) runs by its encoding alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from submodel.errors import unknown_name
from submodel.lazy import lazy_module

if TYPE_CHECKING:
    import torch
else:
    torch = lazy_module("torch")  # sizes are told without it

GROUP = 64  # columns of a row that share a word of the mask and, below 16 bits, a scale
BLOCK = 16  # rows between two entries of `starts`
SLACK = 64  # bytes after the last value, which the kernels may read


@dataclass(frozen=True)
class Encoding:
    """How stored weights lie in bytes: the torch twin of the kernels, which they equal bit for bit.

    A stored weight is bfloat16 at 16 bits; below, it is a whole number of the scale of its group, as uint8 with an
    offset of half the range.

    Attributes:
        bits: of one stored weight.
        row_bytes: numbers of weights that each row stores in the left and right half of its groups -> its bytes.
        write: weights (rows, width) and which of them are stored, bool (rows, width) -> their bytes, uint8.
        read: the inverse: bytes, which weights are stored, and what stands for the others -> weights (rows, width).
        scale: largest and smallest weight of each group, 0 included -> its scale in bfloat16; None at 16 bits.
    """

    bits: int
    row_bytes: Callable[[Any, Any], Any]
    write: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    read: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
    scale: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def width(self, cols: int) -> int:
        """Columns of a row that are stored when all are: whole groups, where groups have scales."""
        return cols if self.scale is None else GROUP * words_of(cols)


def words_of(cols: int) -> int:
    """Groups, and 64-bit words of the mask, of one row."""
    return -(-cols // GROUP)


# 16 bits: the survivors one after another


def _write_halves(weights: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return weights.view(torch.int16)[stored].view(torch.uint8)


def _read_halves(values: torch.Tensor, stored: torch.Tensor, other: int) -> torch.Tensor:
    weights = torch.full(stored.shape, other, dtype=torch.int16)
    weights[stored] = values.view(torch.int16)
    return weights.view(torch.bfloat16)


# 8 bits: a byte each, one after another


def _write_bytes(weights: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    return weights[stored]


def _read_bytes(values: torch.Tensor, stored: torch.Tensor, other: int) -> torch.Tensor:
    weights = torch.full(stored.shape, other, dtype=torch.uint8)
    weights[stored] = values
    return weights


def _scale_8(most: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Rounded up, so that 127 steps reach the largest."""
    largest = torch.maximum(most, -least) / 127
    return (((largest.view(torch.int32) + 0xFFFF) >> 16) << 16).view(torch.float32).to(torch.bfloat16)


# 4 bits: the survivors of a row's left half in the low halves of its bytes, those of its right half in the high ones


def _middle(width: int) -> int:
    return (width // GROUP + 1) // 2 * GROUP


def _write_nibbles(weights: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    middle = _middle(stored.shape[1])
    rows: list[torch.Tensor] = []
    for row, kept in zip(weights, stored, strict=True):
        left, right = row[:middle][kept[:middle]], row[middle:][kept[middle:]]
        size = max(len(left), len(right))
        low, high = (torch.nn.functional.pad(half, (0, size - len(half))) for half in (left, right))
        rows.append(low | high << 4)
    return torch.cat(rows)


def _read_nibbles(values: torch.Tensor, stored: torch.Tensor, other: int) -> torch.Tensor:
    middle = _middle(stored.shape[1])
    weights = torch.full(stored.shape, other, dtype=torch.uint8)
    at = 0
    for row, kept in zip(weights, stored, strict=True):
        left, right = int(kept[:middle].sum()), int(kept[middle:].sum())
        row[:middle][kept[:middle]] = values[at : at + left] & 15
        row[middle:][kept[middle:]] = values[at : at + right] >> 4
        at += max(left, right)
    return weights


def _scale_4(most: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """The weight that is largest either way is -8 steps."""
    return (torch.where(most >= -least, most, least) / -8).to(torch.bfloat16)


HALVES = Encoding(16, lambda left, right: 2 * (left + right), _write_halves, _read_halves)
BYTES = Encoding(8, lambda left, right: left + right, _write_bytes, _read_bytes, _scale_8)
NIBBLES = Encoding(4, np.maximum, _write_nibbles, _read_nibbles, _scale_4)


@dataclass(frozen=True)
class Format:
    """How a matrix is kept.

    Attributes:
        code: its number in csrc/submodel.h; None for a format that no kernel knows.
        encoding: of a stored weight.
        masked: there is a mask.
        keeps_all: all weights are stored, also those that a mask drops.
        rest: the format of matrices that have no mask: its dense counterpart.
    """

    code: int | None
    encoding: Encoding
    masked: bool
    keeps_all: bool
    rest: str

    @property
    def bits(self) -> int:
        """Of one stored weight."""
        return self.encoding.bits

    @property
    def scaled(self) -> bool:
        """Whether each group of 64 columns has a scale."""
        return self.encoding.scale is not None

    @property
    def is_survivors(self) -> bool:
        """Whether a sub-model in it takes memory for what it keeps alone, and can be exported."""
        return self.masked and not self.keeps_all

    @property
    def is_shared(self) -> bool:
        """Whether many sub-models can be masks over the same weights."""
        return self.masked and self.keeps_all

    @property
    def is_grid(self) -> bool:
        """Whether kept weights can be rounded to its values with their inputs in view (`prune.rounding`)."""
        return self.is_survivors and self.scaled

    def matrix_bytes(self, rows: int, cols: int, kept: float) -> float:
        """About what a matrix takes in memory, of which `kept` weights are kept."""
        words = words_of(cols)
        if self.keeps_all:
            row = self.encoding.width(cols) * self.bits / 8
        else:
            middle = min(cols, (words + 1) // 2 * GROUP)
            share = np.float64(kept / (rows * cols))  # alike in both halves of a row
            row = float(self.encoding.row_bytes(middle * share, (cols - middle) * share))
        return rows * (row + 8 * words * self.masked + 2 * words * self.scaled)

    def model_bytes(
        self, parameters: int, matrices: Iterable[tuple[tuple[int, ...], float]], pruned: bool = True
    ) -> int:
        """About what the weights of a model take in memory.

        Args:
            parameters: of the whole model.
            matrices: shape (..., rows, cols) and sparsity of each matrix that is pruned.
            pruned: False for the base itself, whose matrices are in the format's dense counterpart.
        """
        rest = FORMATS[self.rest]
        form = self if pruned else rest
        size, weights = 0.0, 0
        for (*rows, cols), sparsity in matrices:
            count = math.prod(rows) * cols
            weights += count
            size += form.matrix_bytes(math.prod(rows), cols, count * (1 - sparsity))
        others = max(0, parameters - weights)  # embedding, output head and norms; norms stay in 16 bits
        return int(size + others * (1.1 if rest.scaled else 2))


FORMATS = {
    "dense": Format(0, HALVES, masked=False, keeps_all=True, rest="dense"),
    "dense-int8": Format(1, BYTES, masked=False, keeps_all=True, rest="dense-int8"),
    "bf16": Format(2, HALVES, masked=True, keeps_all=False, rest="dense"),
    "int8": Format(3, BYTES, masked=True, keeps_all=False, rest="dense-int8"),
    "int4": Format(4, NIBBLES, masked=True, keeps_all=False, rest="dense-int8"),
    "shared": Format(5, HALVES, masked=True, keeps_all=True, rest="dense"),
    "shared-int8": Format(6, BYTES, masked=True, keeps_all=True, rest="dense-int8"),
}

SURVIVORS = tuple(name for name, form in FORMATS.items() if form.is_survivors)
"""The formats that store what a sub-model keeps: those that are exported, and compared by default."""

SHARED = tuple(name for name, form in FORMATS.items() if form.is_shared)
"""The formats in which sub-models are masks over the weights of one base."""

MASKED = tuple(name for name, form in FORMATS.items() if form.masked)
"""The formats of sub-models: one in another has zeros in place."""

DENSE = tuple(name for name, form in FORMATS.items() if not form.masked)
"""The formats of a base."""

GRIDS = tuple(name for name, form in FORMATS.items() if form.is_grid)
"""The formats to whose grid kept weights can be rounded with their inputs in view (`prune.rounding`)."""


def format_named(name: str) -> Format:
    """Raises SubmodelError for one that does not exist."""
    if name not in FORMATS:
        raise unknown_name("weight format", name, FORMATS)
    return FORMATS[name]


def shared_over(dense: str) -> str:
    """The format of a mask over the weights of a matrix in a dense format."""
    return next(name for name in SHARED if FORMATS[name].rest == dense)


def scales_of(dense: torch.Tensor, name: str) -> torch.Tensor:
    """What a whole step is worth in each group of 64 columns of a matrix packed in 8 or 4 bits.

    Args:
        dense: (rows, cols), rounded to bfloat16.
        name: a key of FORMATS with fewer than 16 bits.

    Returns:
        bfloat16 (rows, ceil(cols / 64)).
    """
    scale = FORMATS[name].encoding.scale
    assert scale is not None
    groups = torch.nn.functional.pad(dense.to(torch.bfloat16).float(), (0, -dense.shape[1] % GROUP)).view(
        len(dense), -1, GROUP
    )
    return scale(groups.amax(-1).clamp(min=0), groups.amin(-1).clamp(max=0))
