"""Pieces of work side by side."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from submodel.base.workers import Workers

HEAPS = """
import ctypes, sys, threading, torch
from submodel.base.workers import Workers, share_heap
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
def heaps():
    stream = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    return open(sys.argv[1]).read().count("<heap nr=")
def at_once(run):
    turn = threading.Barrier(3)
    run(lambda _: (turn.wait(), torch.randn(100_000).sort(), turn.wait()), range(3))
torch.set_num_threads(3)
if sys.argv[2] == "shared":
    share_heap()
before = heaps()
with Workers() as workers:
    at_once(workers.map)
print(before, heaps())
"""


def test_results_come_in_order_and_threads_are_as_many_as_torch_has():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    turn = threading.Barrier(3)
    try:
        with Workers() as workers:
            found = workers.map(lambda i: (turn.wait(timeout=30), i * i, torch.get_num_threads())[1:], range(6))
            assert found == [(i * i, 1) for i in range(6)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heaps")
@pytest.mark.parametrize("way", ["shared", "own"])
def test_a_heap_can_be_shared(way: str, tmp_path: Path):
    """One of its own would keep what each thread once needed."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", HEAPS, str(tmp_path / "heaps"), way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if "undefined symbol: malloc_info" in done.stderr:
        pytest.skip("another C library")
    before, after = map(int, done.stdout.split())
    assert (after == before) == (way == "shared")
