"""The hidden states between two blocks, kept in a pair of files.

The inputs of block i stand in file i % 2 and its outputs go to file (i + 1) % 2: whatever happens while a block
runs, its inputs are whole, so a killed walk goes on where it was. The kernel keeps the files in memory as far as
there is room and writes them out otherwise; the process itself holds one batch at a time.
"""

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from submodel.errors import SubmodelError


class Activations:
    """Hidden states (samples, seq_len, hidden) of one domain in `folder`.

    Args:
        folder: where the two files stand.
        shape: (samples, seq_len, hidden).
        dtype: of the hidden states.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: torch.dtype):
        folder.mkdir(parents=True, exist_ok=True)
        self.shape = shape
        self.dtype = dtype
        self._sample_bytes = shape[1] * shape[2] * dtype.itemsize
        self._files = [os.open(folder / f"hidden.{k}", os.O_RDWR | os.O_CREAT, 0o600) for k in (0, 1)]
        self.crc32: dict[int, int] = {}

    def __enter__(self) -> "Activations":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for file in self._files:
            os.close(file)

    def read(self, block: int, start: int, stop: int) -> torch.Tensor:
        """The inputs of `block` for samples start..stop."""
        out = torch.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        view = _bytes_of(out)
        if os.preadv(self._files[block % 2], [view], start * self._sample_bytes) != len(view):
            raise SubmodelError("the file of hidden states ends early: start the extraction again")
        return out

    def write(self, block: int, start: int, hidden: torch.Tensor) -> None:
        """The inputs of `block` for the samples from `start` on; batches may come in any order."""
        view = _bytes_of(hidden.cpu().contiguous())
        self.crc32[start] = zlib.crc32(view)
        offset = start * self._sample_bytes
        while len(view):  # a write may be short; a full disk raises OSError
            written = os.pwrite(self._files[block % 2], view, offset)
            view, offset = view[written:], offset + written

    def checksums(self, block: int, batches: list[tuple[int, int]]) -> list[int]:
        """CRC-32 of every batch of the inputs of `block`, as they stand in the file."""
        found: list[int] = []
        for start, stop in batches:
            size = (stop - start) * self._sample_bytes
            found.append(zlib.crc32(os.pread(self._files[block % 2], size, start * self._sample_bytes)))
        return found


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    array: Any = tensor.view(torch.uint8).numpy()
    return memoryview(array).cast("B")
