"""Packed matrices: a bitmask and the surviving weights, in bfloat16, 8 or 4 bits, and their dense counterparts; and
dense weights with a bitmask over them, which many sub-models share.

Layouts are specified in docs/format.md. Packing, unpacking and products run in the native kernels; where these are
missing the torch twins at the end of this file do the same, bit for bit but for the order of sums.
"""

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional

from submodel.base import native
from submodel.base.arithmetic import linear, multiplies, scratch
from submodel.errors import SubmodelError, unknown_name
from submodel.prune.rounding import Grid
from submodel.runtime import pages
from submodel.store import Mask

BLOCK = 16  # rows between two entries of `starts`
SLACK = 64  # bytes after the last value, which the kernels may read
_FEW = 8 if multiplies(torch.bfloat16) else 16  # rows of activations up to which the format's own kernel is faster
_PANEL = 1024  # rows unpacked at once


@dataclass(frozen=True)
class Format:
    """How a matrix is kept.

    Attributes:
        code: its number in csrc/submodel.h.
        masked: there is a mask.
        whole: all weights are stored, also those that a mask drops.
        bits: of one stored weight; below 16 there is a scale to every 64 columns of a row.
        rest: the format of matrices that have no mask.
    """

    code: int
    masked: bool
    whole: bool
    bits: int
    rest: str


FORMATS = {
    "dense": Format(0, False, True, 16, "dense"),
    "dense-int8": Format(1, False, True, 8, "dense-int8"),
    "bf16": Format(2, True, False, 16, "dense"),
    "int8": Format(3, True, False, 8, "dense-int8"),
    "int4": Format(4, True, False, 4, "dense-int8"),
    "shared": Format(5, True, True, 16, "dense"),
    "shared-int8": Format(6, True, True, 8, "dense-int8"),
}


GRIDS = tuple(name for name, form in FORMATS.items() if form.bits < 16 and form.masked and not form.whole)
"""The formats to whose grid kept weights can be rounded with their inputs in view (`prune.rounding`)."""

_SHARED = {form.rest: name for name, form in FORMATS.items() if form.masked and form.whole}


def format_named(name: str) -> Format:
    """Raises SubmodelError for one that does not exist."""
    if name not in FORMATS:
        raise unknown_name("weight format", name, FORMATS)
    return FORMATS[name]


def grid_of(name: str) -> Grid:
    """The values that a format can hold. Raises SubmodelError for a name that is not in GRIDS."""
    if name not in GRIDS:
        raise unknown_name("grid", name, GRIDS)

    def scales(rows: torch.Tensor) -> torch.Tensor:
        return scales_of(rows, name).float().repeat_interleave(64, 1)[:, : rows.shape[1]]

    return Grid(FORMATS[name].bits, scales)


@dataclass(frozen=True)
class Packed:
    """One matrix.

    Attributes:
        format: a key of FORMATS.
        rows, cols: its shape unpacked.
        mask: int64 (rows, ceil(cols / 64)), or None.
        values: uint8 (bytes of all values, and slack unless all weights are there).
        starts: int64 (ceil(rows / BLOCK) + 1), or None.
        scales: bfloat16 (rows, ceil(cols / 64)), or None.
    """

    format: str
    rows: int
    cols: int
    values: torch.Tensor
    mask: torch.Tensor | None = None
    starts: torch.Tensor | None = None
    scales: torch.Tensor | None = None

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The parts that are there, by name."""
        parts = {"mask": self.mask, "scales": self.scales, "starts": self.starts, "values": self.values}
        return {name: tensor for name, tensor in parts.items() if tensor is not None}

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @cached_property
    def native(self) -> native.Matrix:
        """For the kernels; valid as long as this object is."""

        def at(tensor: torch.Tensor | None) -> int | None:
            return None if tensor is None else tensor.data_ptr()

        code = FORMATS[self.format].code
        return native.Matrix(
            code, self.rows, self.cols, at(self.mask), at(self.values), at(self.starts), at(self.scales)
        )

    def check(self) -> None:
        """Raises SubmodelError unless every read of the kernels stays within the tensors."""
        form, words = FORMATS[self.format], -(-self.cols // 64)
        wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"values": (torch.uint8, self.values.shape)}
        if form.masked:
            wanted["mask"] = (torch.int64, (self.rows, words))
        if not form.whole:
            wanted["starts"] = (torch.int64, (-(-self.rows // BLOCK) + 1,))
        if form.bits < 16:
            wanted["scales"] = (torch.bfloat16, (self.rows, words))
        parts = self.tensors
        whole = parts.keys() == wanted.keys() and self.rows > 0 and self.cols > 0 and self.values.dim() == 1
        whole = whole and all(
            parts[name].dtype == dtype and parts[name].shape == shape and parts[name].is_contiguous()
            for name, (dtype, shape) in wanted.items()
        )
        if whole and self.mask is not None and self.starts is not None:
            end, starts = _starts(self.mask, self.cols, form)
            whole = end >= 0 and torch.equal(starts, self.starts) and self.values.numel() == end + SLACK
        elif whole:
            whole = self.values.numel() == self.rows * (2 * self.cols if form.bits == 16 else 64 * words)
            if self.mask is not None and self.cols % 64:
                whole = whole and not bool((self.mask[:, -1] >> self.cols % 64).any())
        if not whole:
            raise SubmodelError(f"a packed matrix of {self.rows} x {self.cols} in {self.format} is damaged")


def pack(dense: torch.Tensor, mask: Mask | None, name: str, grid: torch.Tensor | None = None) -> Packed:
    """Pack a matrix.

    Args:
        dense: (rows, cols), rounded to bfloat16. Scales are those of the dense groups, so that all masks of a base
            share one grid.
        mask: what to keep; without one the matrix goes into the format's dense counterpart.
        name: a key of FORMATS.
        grid: (rows, cols): scales are those of its groups instead.
    """
    form = format_named(name)
    if mask is not None and form.masked and form.whole:
        return share(pack(dense, None, name, grid), mask_words(mask))
    if mask is None or not form.masked:
        name = form.rest
        form = FORMATS[name]
    weights = dense.to(torch.bfloat16).contiguous()
    rows, cols = weights.shape
    words = -(-cols // 64)
    if name == "dense":
        return Packed(name, rows, cols, weights.view(-1).view(torch.uint8))
    bits = starts = None
    if form.masked:
        assert mask is not None
        bits = mask_words(mask)
        end, starts = _starts(bits, cols, form)
        values = pages.empty(end + SLACK)
        values[end:] = 0
    else:
        values = pages.empty(rows * 64 * words)
    scales = pages.empty(2 * rows * words).view(torch.bfloat16).view(rows, words) if form.bits < 16 else None
    packed = Packed(name, rows, cols, values, bits, starts, scales)
    edges = None if grid is None else grid.to(torch.bfloat16).contiguous()
    library = native.library()
    if library:
        at = None if edges is None else edges.data_ptr()
        library.sm_pack(ctypes.byref(packed.native), weights.data_ptr(), at, torch.get_num_threads())
    else:
        _pack(packed, weights, weights if edges is None else edges)
    return packed


def scales_of(dense: torch.Tensor, name: str) -> torch.Tensor:
    """What a whole step is worth in each group of 64 columns of a matrix packed in 8 or 4 bits.

    Args:
        dense: (rows, cols), rounded to bfloat16.
        name: a key of FORMATS with fewer than 16 bits.

    Returns:
        bfloat16 (rows, ceil(cols / 64)).
    """
    groups = functional.pad(dense.to(torch.bfloat16).float(), (0, -dense.shape[1] % 64)).view(len(dense), -1, 64)
    most, least = groups.amax(-1).clamp(min=0), groups.amin(-1).clamp(max=0)
    if FORMATS[name].bits == 4:
        return (torch.where(most >= -least, most, least) / -8).to(torch.bfloat16)
    largest = torch.maximum(most, -least) / 127
    return (((largest.view(torch.int32) + 0xFFFF) >> 16) << 16).view(torch.float32).to(torch.bfloat16)


def share(packed: Packed, mask: torch.Tensor) -> Packed:
    """A dense matrix with a mask over it, int64 (rows, ceil(cols / 64)): the weights stay where they are."""
    return replace(packed, format=_SHARED[packed.format], mask=mask)


def unpack(packed: Packed, first: int = 0, last: int | None = None, room: torch.Tensor | None = None) -> torch.Tensor:
    """Rows [first, last) as bfloat16 (last - first, cols), dropped weights 0; first is a multiple of BLOCK.

    The result lies in `room`, if that is given: bfloat16, at least as many numbers.
    """
    last = packed.rows if last is None else last
    if packed.format == "dense":
        return packed.values.view(torch.bfloat16).view(packed.rows, packed.cols)[first:last]
    library = native.library()
    if not library:
        return _unpack(packed)[first:last]
    size = (last - first) * packed.cols
    room = torch.empty(size, dtype=torch.bfloat16) if room is None else room
    out = room[:size].view(last - first, packed.cols)
    library.sm_unpack(ctypes.byref(packed.native), first, last, out.data_ptr(), torch.get_num_threads())
    return out


def multiply(packed: Packed, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., cols) times the matrix transposed, plus bias (rows): bfloat16 (..., rows).

    Few rows of x go through the format's own kernel, which reads the packed weights once; for more the weights are
    unpacked and multiplied by torch, whose cost they share: in panels, but bfloat16 as a whole, since torch may sum
    the products of a panel in another order than those of the matrix.
    """
    flat = x.reshape(-1, packed.cols).to(torch.bfloat16).contiguous()
    library = native.library()
    if library and len(flat) <= _FEW:
        y = torch.empty(len(flat), packed.rows, dtype=torch.bfloat16)
        threads = torch.get_num_threads()
        at = None if bias is None else bias.data_ptr()
        library.sm_matmul(ctypes.byref(packed.native), flat.data_ptr(), len(flat), at, y.data_ptr(), threads)
    elif packed.format == "dense" or not library:
        y = linear(flat, unpack(packed), bias)
    else:
        y = torch.empty(len(flat), packed.rows, dtype=torch.bfloat16)
        size = packed.rows if FORMATS[packed.format].bits == 16 else min(_PANEL, packed.rows)
        panel = scratch(size * packed.cols, torch.bfloat16)
        for first in range(0, packed.rows, size):
            last = min(first + size, packed.rows)
            part = None if bias is None else bias[first:last]
            y[:, first:last] = linear(flat, unpack(packed, first, last, panel), part)
    return y.view(*x.shape[:-1], packed.rows)


def mask_words(mask: Mask, room: torch.Tensor | None = None) -> torch.Tensor:
    """A stored mask, its rows padded with zeros to whole words: int64 (rows, ceil(cols / 64)); in `room`, if given.

    Raises SubmodelError for a mask with bits past its columns: kernels would read weights that are not there.
    """
    rows, width = mask.packed.shape
    words = -(-mask.cols // 64)
    if mask.cols % 8 and bool((mask.packed[:, -1] >> mask.cols % 8).any()):
        raise SubmodelError(f"a mask of {mask.cols} columns keeps weights past them: extract the sub-model again")
    room = pages.empty(rows * words * 8) if room is None else room
    padded = room.view(rows, words * 8)
    padded[:, width:] = 0
    padded[:, :width] = torch.from_numpy(np.ascontiguousarray(mask.packed))
    return padded.view(torch.int64)


def _starts(mask: torch.Tensor, cols: int, form: Format) -> tuple[int, torch.Tensor]:
    """Bytes of all values (-1 if the mask reaches past cols) and where each block of rows begins."""
    rows, words = mask.shape
    starts = torch.empty(-(-rows // BLOCK) + 1, dtype=torch.int64)
    library = native.library()
    if library:
        return library.sm_starts(form.code, mask.data_ptr(), rows, cols, starts.data_ptr()), starts
    counts = np.bitwise_count(mask.numpy().view(np.uint64)).astype(np.int64)
    half = (words + 1) // 2
    left, right = counts[:, :half].sum(1), counts[:, half:].sum(1)
    size = np.maximum(left, right) if form.bits == 4 else (left + right) * (form.bits // 8)
    ends = np.concatenate([[0], size.cumsum()])
    starts[:-1] = torch.from_numpy(ends[:-1][::BLOCK].copy())
    starts[-1] = int(ends[-1])
    beyond = bool(cols % 64) and bool((mask.numpy().view(np.uint64)[:, -1] >> np.uint64(cols % 64)).any())
    return (-1 if beyond else int(ends[-1])), starts


def _bits(packed: Packed) -> torch.Tensor:
    """bool (rows, padded columns): which weights are stored."""
    width = -(-packed.cols // 64) * 64
    if packed.mask is None:
        return torch.ones(packed.rows, width, dtype=torch.bool)
    flat = packed.mask.numpy().view(np.uint8).reshape(packed.rows, -1)
    return torch.from_numpy(np.unpackbits(flat, axis=1, bitorder="little").view(bool))


def _steps(packed: Packed, dense: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """The dense weights as whole steps around the format's offset, uint8 (rows, padded columns); fills the scales."""
    assert packed.scales is not None
    half = 1 << FORMATS[packed.format].bits - 1
    packed.scales.copy_(scales_of(grid, packed.format))
    padded = functional.pad(dense.float(), (0, -packed.cols % 64)).view(packed.rows, -1, 64)
    up = torch.where(packed.scales == 0, 0.0, 1 / packed.scales.float())
    steps = (padded * up[..., None]).round().clamp(-half, half - 1)
    return (steps + half).to(torch.uint8).view(packed.rows, -1)


def _pack(packed: Packed, dense: torch.Tensor, grid: torch.Tensor) -> None:
    bits = _bits(packed)
    if packed.format == "bf16":
        kept = functional.pad(dense.view(torch.int16), (0, -packed.cols % 64))[bits]
        packed.values[:-SLACK] = kept.view(torch.uint8)
        return
    steps = _steps(packed, dense, grid)
    if packed.format == "int4":
        at = 0
        half = (bits.shape[1] // 64 + 1) // 2 * 64
        for row, kept in zip(steps, bits, strict=True):
            left, right = row[:half][kept[:half]], row[half:][kept[half:]]
            size = max(len(left), len(right))
            values = functional.pad(left, (0, size - len(left)))
            packed.values[at : at + size] = values | functional.pad(right, (0, size - len(right))) << 4
            at += size
    else:
        packed.values[: int(bits.sum())] = steps[bits]


def _unpack(packed: Packed) -> torch.Tensor:
    bits = _bits(packed)
    if packed.format == "shared":
        weights = packed.values.view(torch.bfloat16).view(packed.rows, packed.cols)
        return weights.masked_fill(~bits[:, : packed.cols], 0)
    if packed.format == "bf16":
        out = torch.zeros(bits.shape, dtype=torch.int16)
        out[bits] = packed.values[:-SLACK].view(torch.int16)
        return out.view(torch.bfloat16)[:, : packed.cols].contiguous()
    assert packed.scales is not None
    steps = torch.zeros(bits.shape, dtype=torch.float32)
    if packed.format == "int4":
        at = 0
        half = (bits.shape[1] // 64 + 1) // 2 * 64
        for row, kept in zip(steps, bits, strict=True):
            left, right = int(kept[:half].sum()), int(kept[half:].sum())
            row[:half][kept[:half]] = (packed.values[at : at + left] & 15).float() - 8
            row[half:][kept[half:]] = (packed.values[at : at + right] >> 4).float() - 8
            at += max(left, right)
    elif FORMATS[packed.format].whole:
        steps = (packed.values.view(bits.shape).float() - 128) * bits
    else:
        steps[bits] = packed.values[: int(bits.sum())].float() - 128
    dense = steps.view(packed.rows, -1, 64) * packed.scales.float()[..., None]
    return dense.view(packed.rows, -1)[:, : packed.cols].to(torch.bfloat16).contiguous()
