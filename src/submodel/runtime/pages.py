"""Memory in huge pages, where the system has them: weights that are streamed for every token miss fewer translations.

Matrices share chunks; a chunk goes back to the system when the last tensor in it goes.
"""

import mmap
import threading

import torch

_CHUNK = 64 << 20
_ALIGNED = 64  # bytes, a cache line
_HUGE = 2 << 20


class _Chunks:
    def __init__(self) -> None:
        self._left = torch.empty(0, dtype=torch.uint8)
        self._lock = threading.Lock()

    def take(self, size: int) -> torch.Tensor:
        with self._lock:
            if self._left.numel() < size:
                memory = mmap.mmap(-1, max(size, _CHUNK) + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                memory.madvise(mmap.MADV_HUGEPAGE)
                with torch.inference_mode(False):  # or who comes later without it could not write to the rest
                    whole = torch.frombuffer(memory, dtype=torch.uint8)
                    self._left = whole[-whole.data_ptr() % _HUGE :]
            taken, self._left = self._left[:size], self._left[-(-size // _ALIGNED) * _ALIGNED :]
            return taken


_chunks = _Chunks()


def empty(size_bytes: int) -> torch.Tensor:
    """uint8 (size_bytes), not initialised, aligned to a cache line."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return torch.empty(size_bytes, dtype=torch.uint8)
    return _chunks.take(size_bytes)
