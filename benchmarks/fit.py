"""A fit of kept weights: ours, the same in float32, and each row's normal equations solved.

    python -m benchmarks.fit [--cols 896 --cols 4864] [--rows 128] [--rounds 4] [--threads N]

All take turns in one process, on half of the weights of random rows and on inputs of which a tenth of the columns'
number is directions that columns share. `ours` is what a model in bfloat16 gets: products in it where the processor has
them. Every row has a support of its own, so exact solutions ask for a factor a row; two rows are solved. Times are of
the processor, a row: medians, in brackets the least and the most. `of the gain` is how far the sum that a fit lowers
has fallen, 100% being the exact solution.
"""

import argparse
import os

import torch

from benchmarks.measure import machine, machine_line, processor_seconds, show, spread, table
from submodel.prune.refit import fitter, ridge_of
from submodel.prune.statistics import Gram

_SOLVED = 2  # rows


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--cols", type=int, action="append")
    p.add_argument("--rows", type=int, default=128)
    p.add_argument("--rounds", type=int, default=4)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    lines = [["columns", "ours, ms", "float32, ms", "solved, ms", "float32 / ours", "of the gain", "float32"]]
    for cols in args.cols or (576, 896, 1536, 4864):
        lines.append(_line(cols, args.rows, args.rounds))
    print(machine_line(machine(args.threads), before, os.getloadavg()[0]))
    print(table(lines))


def _line(cols: int, rows: int, rounds: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(cols, cols // 10, generator=generator) @ torch.randn(cols // 10, cols, generator=generator)
    inputs = torch.randn(2 * cols, cols, generator=generator) @ (torch.eye(cols) + shared / cols**0.5)
    seen = Gram(cols, torch.device("cpu"))
    seen.update(inputs)
    weight = torch.randn(rows, cols, generator=generator).bfloat16()
    dense, keep = weight.float(), torch.rand(rows, cols, generator=generator) > 0.5
    gram, ridge = seen.products, ridge_of(weight, seen)
    ours, plain, some = fitter(weight, seen), fitter(dense, seen), slice(_SOLVED)
    contenders = [
        (rows, lambda: ours(dense, keep, None)),
        (rows, lambda: plain(dense, keep, None)),
        (_SOLVED, lambda: torch.stack([_solved(dense[row], keep[row], gram, ridge) for row in range(_SOLVED)])),
    ]
    found = [work()[some] for _, work in contenders]  # a warm-up as well
    times = [[1e3 * processor_seconds(work) / count for count, work in contenders] for _ in range(rounds)]
    taken = [show(spread(list(column))) for column in zip(*times, strict=True)]
    ratio = spread([other / own for own, other, _ in times])
    start, *ends = (_cost(dense[some], keep[some], new, gram, ridge) for new in (dense[some] * keep[some], *found))
    gains = [f"{100 * (start - end) / (start - ends[2]):.2f}%" for end in ends[:2]]
    return [f"{cols:,}", *taken, show(ratio), *gains]


def _solved(weight: torch.Tensor, keep: torch.Tensor, gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """One row's fit, by a Cholesky factor of its own."""
    inside = gram[keep][:, keep]
    right = (gram[keep] @ weight.masked_fill(keep, 0))[:, None]
    change = torch.cholesky_solve(right, torch.linalg.cholesky(inside + torch.diag(ridge * inside.diagonal())))
    return (weight * keep).masked_scatter_(keep, weight[keep] + change[:, 0])


def _cost(weight: torch.Tensor, keep: torch.Tensor, new: torch.Tensor, gram: torch.Tensor, ridge: float) -> float:
    """The sum that a fit lowers."""
    off, moved = (weight - new).double(), (new - weight * keep).double()
    return float(((off @ gram.double()) * off).sum() + ridge * (moved.square() * gram.diagonal()).sum())


if __name__ == "__main__":
    main()
