"""Gram matrices of bfloat16 inputs: ours, the whole product by torch in float32, and torch's rate in bfloat16.

    python -m benchmarks.gram [--cols 896 --cols 4864] [--tokens 512] [--rounds 8] [--threads N]

All take turns in one process. `ours` sums what is on and below the diagonal: by native code (csrc/amx.cpp, avx512.cpp)
where the processor multiplies bfloat16, else by torch a panel at a time. The last column is a limit: as many tokens
times a weight of cols x cols in bfloat16, half of whose operations a symmetric matrix needs. Times are of the
processor: medians, in brackets the least and the most.
"""

import argparse
import os
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.measure import machine, machine_line, processor_seconds, show, spread, table
from submodel.base import native
from submodel.prune.statistics import Gram


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--cols", type=int, action="append")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    rows = [["columns", "ours, ms", "torch float32, ms", "torch / ours", "bfloat16 product, ms"]]
    for cols in args.cols or (576, 896, 1536, 4864):
        inputs, weight = (torch.randn(n, cols).bfloat16() for n in (args.tokens, cols))
        ours, sums = Gram(cols, torch.device("cpu")), torch.zeros(cols, cols)
        contenders: list[Callable[[], object]] = [
            lambda ours=ours, inputs=inputs: ours.update(inputs),
            lambda sums=sums, inputs=inputs: sums.addmm_(inputs.float().T, inputs.float()),
            lambda inputs=inputs, weight=weight: functional.linear(inputs, weight),
        ]
        times = [[1e3 * processor_seconds(work) for work in contenders] for _ in range(args.rounds + 1)][1:]
        ratios = spread([torch_time / own for own, torch_time, _ in times])
        own, other, product = (show(spread(list(found))) for found in zip(*times, strict=True))
        rows.append([f"{cols:,}", own, other, show(ratios), product])
    print(f"{native.instruction_set()}, {args.tokens} tokens")
    print(machine_line(machine(args.threads), before, os.getloadavg()[0]))
    print(table(rows))


if __name__ == "__main__":
    main()
