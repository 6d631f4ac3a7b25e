"""Memory in huge pages, where the system has them: weights that are streamed for every token miss fewer translations.

Small matrices share chunks; a chunk goes back to the system when the last tensor in it goes. A large one has a
mapping of its own.
"""

import mmap
import threading

import torch

_CHUNK = 64 << 20
_LARGE = 8 << 20
_ALIGNED = 64  # bytes, a cache line
_HUGE = 2 << 20


class _Chunks:
    def __init__(self) -> None:
        self._rest = torch.empty(0, dtype=torch.uint8)
        self._lock = threading.Lock()

    def take(self, size: int) -> torch.Tensor:
        if size >= _LARGE:
            return _mapping(size)[:size]
        with self._lock:
            if self._rest.numel() < size:
                self._rest = _mapping(_CHUNK)
            taken, self._rest = self._rest[:size], self._rest[-(-size // _ALIGNED) * _ALIGNED :]
            return taken


def _mapping(size: int) -> torch.Tensor:
    """At least `size` bytes of the system's, from the beginning of a huge page on."""
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    with torch.inference_mode(False):  # or who comes later without it could not write to the rest of a chunk
        pages = torch.frombuffer(memory, dtype=torch.uint8)
        return pages[-pages.data_ptr() % _HUGE :]


_chunks = _Chunks()


def empty(size_bytes: int) -> torch.Tensor:
    """uint8 (size_bytes), not initialised, aligned to a cache line."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return torch.empty(size_bytes, dtype=torch.uint8)
    return _chunks.take(size_bytes)
