"""The kernels alone: matrices streamed from memory, own sparse products against own dense ones and torch.

    python -m benchmarks.kernels [--threads N] [--rows-of-x N] [--sparsity 0.5] [--seconds 20] [--shape ROWSxCOLS ...]

Every kernel goes through copies of its matrix that together are far larger than the caches; the kernels take turns,
one pass each, so that whatever else the machine does falls on all of them alike. Printed are the median time of one
product, the quartiles around it, bytes read a second, and ratios of medians. Memory bandwidth is the fastest sum over
an array of the same total size, in the same turns.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from submodel.prune.mask import pack_bits

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's idle threads spin through the turns of others

import numpy as np
import torch
from torch.nn import functional

from submodel.base import native
from submodel.base.arithmetic import linear, multiplies
from submodel.runtime.packed.formats import FORMATS
from submodel.runtime.packed.matrix import PackedMatrix, multiply, pack
from submodel.store import Mask

SHAPES = ("4864x896", "896x4864", "4096x4096", "11008x4096")  # of 0.5B and 7B models


def _copies(packed: PackedMatrix, total: int) -> list[PackedMatrix]:
    count = max(2, -(-total // packed.size_bytes))
    parts = [{name: tensor.clone() for name, tensor in packed.tensors.items()} for _ in range(count)]
    return [PackedMatrix(packed.format, packed.rows, packed.cols, **part) for part in parts]


def _passes(shape: str, sparsity: float, count: int, total: int) -> dict[str, tuple[int, int, Callable[[], Any]]]:
    """Kernel -> (bytes of one matrix, products in a pass, the pass)."""
    rows, cols = map(int, shape.split("x"))
    dense = torch.randn(rows, cols).to(torch.bfloat16)
    keep = Mask(pack_bits(np.random.default_rng(0).random((rows, cols)) >= sparsity), cols)
    x = torch.randn(count, cols).to(torch.bfloat16)
    found: dict[str, tuple[int, int, Callable[[], Any]]] = {}
    block = torch.ones(total // 4)
    found["memory"] = (block.nbytes, 1, block.sum)
    matrices = [dense.clone() for _ in range(max(2, -(-total // dense.nbytes)))]
    found["torch bf16"] = (dense.nbytes, len(matrices), lambda: [functional.linear(x, m) for m in matrices])
    if count > 1 and not multiplies(torch.bfloat16):  # what a batch's products are made by, and torch's best
        wide, wide_x = [m.float() for m in matrices], x.float()
        found["torch f32"] = (wide[0].nbytes, len(wide), lambda: [functional.linear(wide_x, m) for m in wide])
        found["linear"] = (dense.nbytes, len(matrices), lambda: [linear(x, m) for m in matrices])
    for name in FORMATS:
        copies = _copies(pack(dense, keep, name), total)
        found[name] = (copies[0].size_bytes, len(copies), lambda copies=copies: [multiply(p, x) for p in copies])
    return found


def measure(shape: str, sparsity: float, count: int, total: int, seconds: float) -> Iterator[dict[str, Any]]:
    """One row a kernel."""
    passes = _passes(shape, sparsity, count, total)
    times: dict[str, list[float]] = {name: [] for name in passes}
    end = time.perf_counter() + seconds
    while len(times["memory"]) < 4 or time.perf_counter() < end:
        for name, (_, products, run) in passes.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / products)
    for name, (size, _, _) in passes.items():
        low, median, high = statistics.quantiles(times[name][1:], n=4)
        rate = size / (min(times[name]) if name == "memory" else median)
        yield {
            "shape": shape,
            "kernel": name,
            "us": 1e6 * median,
            "q1": 1e6 * low,
            "q3": 1e6 * high,
            "gb_s": rate / 1e9,
            "bytes": size,
            "passes": len(times[name]),
        }


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rows-of-x", type=int, default=1)
    p.add_argument("--sparsity", type=float, default=0.5)
    p.add_argument("--seconds", type=float, default=20.0, help="a shape")
    p.add_argument("--megabytes", type=int, default=300, help="of each kernel's copies")
    p.add_argument("--shape", action="append", help=f"default: {', '.join(SHAPES)}")
    p.add_argument("--out", type=Path, help="append the rows to this JSONL file")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{native.instruction_set()}, {args.threads} threads, {args.rows_of_x} rows of x, sparsity {args.sparsity}")
    print(f"{'':12}{'kernel':12}{'us':>9}{'q1':>9}{'q3':>9}{'GB/s':>7}{'x dense':>9}{'x int8':>8}{'x torch':>8}")
    for shape in args.shape or SHAPES:
        rows = list(measure(shape, args.sparsity, args.rows_of_x, args.megabytes << 20, args.seconds))
        us = {row["kernel"]: row["us"] for row in rows}
        for row in rows:
            ratios = [us[other] / row["us"] for other in ("dense", "dense-int8", "torch bf16")]
            print(
                f"{shape:12}{row['kernel']:12}{row['us']:9.1f}{row['q1']:9.1f}{row['q3']:9.1f}{row['gb_s']:7.1f}"
                + (
                    ""
                    if row["kernel"] == "memory"
                    else "".join(f"{r:{w}.2f}" for r, w in zip(ratios, (9, 8, 8), strict=True))
                )
            )
            if args.out:
                with open(args.out, "a") as f:
                    f.write(json.dumps({**row, "threads": args.threads, "rows_of_x": args.rows_of_x}) + "\n")


if __name__ == "__main__":
    main()
