"""A mask: which weights of a matrix a sub-model keeps, one bit a weight, and new values for them if it has any.

Bit j of a row is bit j % 8, counted from the least significant, of byte j // 8; the unused bits of a row's last byte
are 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Packed = np.ndarray[Any, np.dtype[np.uint8]]  # uint8, (..., ceil(cols / 8))


def pack_bits(mask: np.ndarray) -> Packed:
    """Bool (..., cols) -> uint8 (..., ceil(cols / 8))."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack_bits(packed: Packed, cols: int) -> np.ndarray:
    """The inverse of `pack_bits`: uint8 (..., ceil(cols / 8)) -> bool (..., cols)."""
    return np.unpackbits(packed, axis=-1, count=cols, bitorder="little").view(bool)


def popcount(packed: Packed) -> int:
    """How many weights are kept."""
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def row_popcounts(packed: Packed) -> np.ndarray:
    """How many weights each row keeps, int64 (...)."""
    return np.bitwise_count(packed).sum(axis=-1, dtype=np.int64)


@dataclass(frozen=True)
class Mask:
    """One matrix of a sub-model.

    Attributes:
        packed: its mask, uint8 (..., ceil(cols / 8)).
        cols: the number of columns.
        values: reads the new values of the kept weights, in the order of the mask's ones, float (kept,); None where
            the kept weights are those of the base.
        grid: the packed format on whose grid of the base's weight the new values lie; None where they do not.
    """

    packed: Packed
    cols: int
    values: "Callable[[], torch.Tensor] | None" = None
    grid: str | None = None

    @property
    def weights(self) -> int:
        return int(np.prod(self.packed.shape[:-1])) * self.cols

    def unpack(self) -> np.ndarray:
        """bool (..., cols), True = kept."""
        return unpack_bits(self.packed, self.cols)

    def apply_to(self, weight: "torch.Tensor") -> "torch.Tensor":
        """Make the base's weight (..., cols) the sub-model's, in place; returns it."""
        import torch

        keep = torch.from_numpy(self.unpack()).to(weight.device)
        if self.values is None:
            return weight.mul_(keep)
        return weight.zero_().masked_scatter_(keep, self.values().to(weight.device, weight.dtype))


Masks = Mapping[str, Mask]
