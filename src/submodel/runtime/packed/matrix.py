"""One packed matrix: made from dense weights and a mask, unpacked, multiplied.

Packing, unpacking and products run in the native kernels; where these are missing, or do not know a format, the torch
twins do the same, bit for bit but for the order of sums (`formats.Encoding`).
"""

import ctypes
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from submodel.base import native
from submodel.base.arithmetic import linear, multiplies, scratch
from submodel.errors import SubmodelError
from submodel.runtime.packed import huge_pages
from submodel.runtime.packed.formats import (
    BLOCK,
    FORMATS,
    GROUP,
    SLACK,
    Format,
    format_named,
    scales_of,
    shared_over,
    words_of,
)
from submodel.store import Mask

_FEW = 8 if multiplies(torch.bfloat16) else 16  # rows of activations up to which the format's own kernel is faster
_PANEL = 1024  # rows unpacked at once


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix in one of FORMATS.

    Attributes:
        format: a key of FORMATS.
        rows, cols: its shape unpacked.
        values: uint8 (bytes of all values, and slack unless all weights are there).
        mask: int64 (rows, ceil(cols / 64)), or None.
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

    @property
    def has_kernels(self) -> bool:
        """Whether the native kernels know its format."""
        return FORMATS[self.format].code is not None

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
        form, words = FORMATS[self.format], words_of(self.cols)
        # every part that the format has, in its shape, and no other
        expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {"values": (torch.uint8, self.values.shape)}
        if form.masked:
            expected["mask"] = (torch.int64, (self.rows, words))
        if not form.keeps_all:
            expected["starts"] = (torch.int64, (-(-self.rows // BLOCK) + 1,))
        if form.scaled:
            expected["scales"] = (torch.bfloat16, (self.rows, words))
        parts = self.tensors
        fits = parts.keys() == expected.keys() and self.rows > 0 and self.cols > 0 and self.values.dim() == 1
        fits = fits and all(
            parts[name].dtype == dtype and parts[name].shape == shape and parts[name].is_contiguous()
            for name, (dtype, shape) in expected.items()
        )
        # values as many as the mask keeps, each block of rows where the mask puts it, no bit past the columns
        if fits and self.mask is not None and self.starts is not None:
            end, starts = _starts(self.mask, self.cols, form)
            fits = end >= 0 and torch.equal(starts, self.starts) and self.values.numel() == end + SLACK
        elif fits:
            fits = self.values.numel() == self.rows * form.encoding.width(self.cols) * form.bits // 8
            if self.mask is not None and self.cols % GROUP:
                fits = fits and not bool((self.mask[:, -1] >> self.cols % GROUP).any())
        if not fits:
            raise SubmodelError(f"a packed matrix of {self.rows} x {self.cols} in {self.format} is damaged")


def pack(dense: torch.Tensor, mask: Mask | None, name: str, grid: torch.Tensor | None = None) -> PackedMatrix:
    """Pack a matrix.

    Args:
        dense: (rows, cols), rounded to bfloat16. Scales are those of the dense groups, so that all masks of a base
            share one grid.
        mask: what to keep; without one the matrix goes into the format's dense counterpart.
        name: a key of FORMATS.
        grid: (rows, cols): scales are those of its groups instead.
    """
    form = format_named(name)
    if mask is not None and form.is_shared:
        return share(pack(dense, None, name, grid), mask_words(mask))
    if mask is None or not form.masked:
        name = form.rest
        form = FORMATS[name]
    weights = dense.to(torch.bfloat16).contiguous()
    rows, cols = weights.shape
    if form.keeps_all and not form.scaled:
        return PackedMatrix(name, rows, cols, weights.view(-1).view(torch.uint8))
    words = starts = None
    if form.masked:
        assert mask is not None
        words = mask_words(mask)
        end, starts = _starts(words, cols, form)
        values = huge_pages.empty(end + SLACK)
        values[end:] = 0
    else:
        values = huge_pages.empty(rows * form.encoding.width(cols) * form.bits // 8)
    scales = None
    if form.scaled:
        scales = huge_pages.empty(2 * rows * words_of(cols)).view(torch.bfloat16).view(rows, words_of(cols))
    packed = PackedMatrix(name, rows, cols, values, words, starts, scales)
    edges = None if grid is None else grid.to(torch.bfloat16).contiguous()
    library = _library(form)
    if library:
        at = None if edges is None else edges.data_ptr()
        library.sm_pack(ctypes.byref(packed.native), weights.data_ptr(), at, torch.get_num_threads())
    else:
        _pack_in_torch(packed, weights, weights if edges is None else edges)
    return packed


def share(packed: PackedMatrix, mask: torch.Tensor) -> PackedMatrix:
    """A dense matrix with a mask over it, int64 (rows, ceil(cols / 64)): the weights stay where they are."""
    return replace(packed, format=shared_over(packed.format), mask=mask)


def unpack(
    packed: PackedMatrix, first: int = 0, last: int | None = None, room: torch.Tensor | None = None
) -> torch.Tensor:
    """Rows [first, last) as bfloat16 (last - first, cols), dropped weights 0; first is a multiple of BLOCK.

    The result lies in `room`, if that is given: bfloat16, at least as many numbers.
    """
    last = packed.rows if last is None else last
    if packed.format == "dense":
        return packed.values.view(torch.bfloat16).view(packed.rows, packed.cols)[first:last]
    library = _library(FORMATS[packed.format])
    if not library:
        return _unpack_in_torch(packed)[first:last]
    size = (last - first) * packed.cols
    room = torch.empty(size, dtype=torch.bfloat16) if room is None else room
    out = room[:size].view(last - first, packed.cols)
    library.sm_unpack(ctypes.byref(packed.native), first, last, out.data_ptr(), torch.get_num_threads())
    return out


def multiply(packed: PackedMatrix, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., cols) times the matrix transposed, plus bias (rows): bfloat16 (..., rows).

    Few rows of x go through the format's own kernel, which reads the packed weights once; for more the weights are
    unpacked and multiplied by torch, whose cost they share: in panels, but bfloat16 all at once, since torch may sum
    the products of a panel in another order than those of the matrix.
    """
    flat = x.reshape(-1, packed.cols).to(torch.bfloat16).contiguous()
    library = _library(FORMATS[packed.format])
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


def look_up(packed: PackedMatrix, rows: torch.Tensor) -> torch.Tensor:
    """Some rows of a dense matrix with scales, int64 (count,) -> bfloat16 (count, cols)."""
    assert packed.scales is not None
    stored = packed.values.view(packed.rows, -1)[rows]
    return _scaled(stored, packed.scales[rows], FORMATS[packed.format])[:, : packed.cols]


def rows_of(packed: PackedMatrix, rows: torch.Tensor) -> PackedMatrix:
    """A matrix of some rows of one that stores all its weights, int64 (count,), as they are packed there."""
    assert packed.starts is None and packed.mask is None
    values = packed.values.view(packed.rows, -1)[rows].view(-1)
    scales = None if packed.scales is None else packed.scales[rows]
    return replace(packed, rows=len(rows), values=values, scales=scales)


def mask_words(mask: Mask, room: torch.Tensor | None = None) -> torch.Tensor:
    """A stored mask, its rows padded with zeros to complete words: int64 (rows, ceil(cols / 64)); in `room`, if given.

    Raises SubmodelError for a mask with bits past its columns: kernels would read weights that are not there.
    """
    rows, width = mask.packed.shape
    words = words_of(mask.cols)
    if mask.cols % 8 and bool((mask.packed[:, -1] >> mask.cols % 8).any()):
        raise SubmodelError(f"a mask of {mask.cols} columns keeps weights past them: extract the sub-model again")
    room = huge_pages.empty(rows * words * 8) if room is None else room
    padded = room.view(rows, words * 8)
    padded[:, width:] = 0
    padded[:, :width] = torch.from_numpy(np.ascontiguousarray(mask.packed))
    return padded.view(torch.int64)


def _library(form: Format) -> Any:
    """The kernels, if they are there and know the format."""
    return None if form.code is None else native.library()


def _starts(mask: torch.Tensor, cols: int, form: Format) -> tuple[int, torch.Tensor]:
    """Bytes of all values (-1 if the mask reaches past cols) and where each block of rows begins."""
    rows, words = mask.shape
    starts = torch.empty(-(-rows // BLOCK) + 1, dtype=torch.int64)
    library = _library(form)
    if library:
        return library.sm_starts(form.code, mask.data_ptr(), rows, cols, starts.data_ptr()), starts
    counts = np.bitwise_count(mask.numpy().view(np.uint64)).astype(np.int64)
    half = (words + 1) // 2
    size = form.encoding.row_bytes(counts[:, :half].sum(1), counts[:, half:].sum(1))
    ends = np.concatenate([[0], size.cumsum()])
    starts[:-1] = torch.from_numpy(ends[:-1][::BLOCK].copy())
    starts[-1] = int(ends[-1])
    beyond = bool(cols % GROUP) and bool((mask.numpy().view(np.uint64)[:, -1] >> np.uint64(cols % GROUP)).any())
    return (-1 if beyond else int(ends[-1])), starts


def _kept(packed: PackedMatrix) -> torch.Tensor:
    """Which weights are kept: bool (rows, columns as the encoding stores them)."""
    width = FORMATS[packed.format].encoding.width(packed.cols)
    if packed.mask is None:
        return torch.ones(packed.rows, width, dtype=torch.bool)
    flat = packed.mask.numpy().view(np.uint8).reshape(packed.rows, -1)
    return torch.from_numpy(np.unpackbits(flat, axis=1, bitorder="little").view(bool))[:, :width]


def _pack_in_torch(packed: PackedMatrix, weights: torch.Tensor, grid: torch.Tensor) -> None:
    """Fill the values, and the scales by those of `grid`."""
    form = FORMATS[packed.format]
    if packed.scales is not None:
        half = 1 << form.bits - 1
        packed.scales.copy_(scales_of(grid, packed.format))
        padded = functional.pad(weights.float(), (0, -packed.cols % GROUP)).view(packed.rows, -1, GROUP)
        up = torch.where(packed.scales == 0, 0.0, 1 / packed.scales.float())
        steps = (padded * up[..., None]).round().clamp(-half, half - 1)
        weights = (steps + half).to(torch.uint8).view(packed.rows, -1)
    values = form.encoding.write(weights, _kept(packed))
    packed.values[: len(values)] = values


def _unpack_in_torch(packed: PackedMatrix) -> torch.Tensor:
    form, kept = FORMATS[packed.format], _kept(packed)
    stored = torch.ones_like(kept) if form.keeps_all else kept
    nothing = 1 << form.bits - 1 if form.scaled else 0  # what stands for a weight of zero
    values = packed.values if form.keeps_all else packed.values[:-SLACK]
    weights = form.encoding.read(values, stored, nothing)
    weights = weights.masked_fill_(~kept, nothing)
    if packed.scales is None:
        return weights.contiguous()
    return _scaled(weights, packed.scales, form)[:, : packed.cols].contiguous()


def _scaled(steps: torch.Tensor, scales: torch.Tensor, form: Format) -> torch.Tensor:
    """Stored numbers (rows, width) of their groups' scales (rows, groups) -> weights, bfloat16 (rows, width)."""
    numbers = steps.float() - (1 << form.bits - 1)
    weights = numbers.view(len(steps), -1, GROUP) * scales.float()[..., None]
    return weights.view(len(steps), -1).to(torch.bfloat16)
