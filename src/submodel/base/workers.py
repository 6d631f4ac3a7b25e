"""Independent pieces of work side by side, one a processor core, each with single-threaded arithmetic.

Against all threads on one piece this saves a barrier after every operation (another program on the machine then costs
its share and no more), and a result does not depend on how many cores there are.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

import torch

_T = TypeVar("_T")
_R = TypeVar("_R")
_M_ARENA_MAX = -8  # of glibc's malloc.h


class Workers:
    """A pool of as many threads as torch has (one for an accelerator), which lives while it is entered."""

    def __init__(self, device: str = "cpu"):
        self._threads = torch.get_num_threads()
        count = self._threads if torch.device(device).type == "cpu" else 1
        self._pool = ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def map(self, work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
        """`work` of every item without gradients, in the order of the items."""

        def inside(item: _T) -> _R:
            with torch.inference_mode():
                return work(item)

        return list(self._pool.map(inside, items))


def share_heap() -> None:
    """Let threads that begin from now on share the main thread's heap, for good.

    glibc gives each thread one of its own, which keeps what that thread once needed. For a process that has little else
    to do than large arithmetic: a command, not a server. Without effect elsewhere, or where MALLOC_ARENA_MAX is set.
    """
    if sys.platform != "linux" or "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except AttributeError:  # another C library
        pass
