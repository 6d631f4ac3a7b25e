"""What the benchmarks share: memory of a process, a child with its result, the machine's rate, spreads and tables.

Every contender of a benchmark runs in a process of its own, so that its peak memory is its own, and prints its
measurements as one JSON line. Memory is resident memory as Linux counts it in /proc/self/status: VmRSS now, VmHWM at
its highest. Pages of mapped files that the process has touched are in it, the kernel's cache of other files is not.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent
MIB, GIB = 1 << 20, 1 << 30

Spread = dict[str, float]
"""median, min, max of one figure over the rounds."""


def memory_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024  # kB


def run_child(command: Sequence[str], threads: int) -> dict[str, Any]:
    """Run a command in the repository's root and return the JSON document on the last line it prints.

    Every child gets the same environment: `threads` threads, and idle ones that sleep instead of spinning.
    Ends the benchmark with the child's last lines when it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def this_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a benchmark again in a process of its own."""
    return [sys.executable, "-m", module, *arguments]


def linear_seconds(rows: int, shape: tuple[int, ...], repeats: int = 7) -> float:
    """The best time of a bf16 product of (rows, shape[1]) inputs with a weight of `shape`, on all threads."""
    inputs = torch.randn(rows, shape[1], dtype=torch.bfloat16)
    weight = torch.randn(shape, dtype=torch.bfloat16)
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            F.linear(inputs, weight)
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def processor_seconds(work: Callable[[], object]) -> float:
    """What some work takes of this process's processor time, whatever else the machine does."""
    start = time.process_time()
    work()
    return time.process_time() - start


def machine(threads: int) -> dict[str, Any]:
    """Processor, its bf16 instructions, threads, versions."""
    has = torch.cpu.get_capabilities()
    name = has.get("cpu_name") or platform.processor() or platform.machine()
    bf16 = [key for key in ("avx512_bf16", "amx_bf16", "bf16") if has.get(key)]
    return {"cpu": name, "bf16": bf16, "threads": threads, "torch": torch.__version__}


def machine_line(found: dict[str, Any], load_before: float, load_after: float) -> str:
    bf16 = " ".join(found["bf16"]) or "no bf16 arithmetic"
    return (
        f"{found['cpu']} ({bf16}), {found['threads']} threads, torch {found['torch']}, "
        f"load average {load_before:.1f} before, {load_after:.1f} after"
    )


def spread(values: Sequence[float]) -> Spread:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def number(value: float) -> str:
    """A figure of three digits or more, without exponents."""
    return f"{value:,.{0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2}f}"


def show(figure: Spread) -> str:
    """`median (min..max)`."""
    return f"{number(figure['median'])} ({number(figure['min'])}..{number(figure['max'])})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right; the first row is the head."""
    columns = max(len(row) for row in rows)
    full = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[at]) for row in full) for at in range(columns)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in full
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
