"""A fit of kept weights: ours with products in bfloat16, in float32, and each row's normal equations solved.

    python -m benchmarks.fit [--cols 896 --cols 4864] [--rows 128] [--rounds 4] [--threads N]

All take turns in one process, on half of the weights of random rows and on inputs of which a tenth of the columns'
number is directions that columns share. Every row has a support of its own, so exact solutions ask for a factor a row;
two rows are solved. Times are of the processor, a row: medians, in brackets the least and the most. `of the gain` is
how far the sum that a fit lowers has fallen, 100% being the exact solution.
"""

import argparse
import os
from collections.abc import Callable

import torch

from benchmarks.measure import machine, machine_line, processor_seconds, show, spread, table
from submodel.prune.reconstruct import refit

_RIDGE = 1.0
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
    gram = inputs.T @ inputs
    weight = torch.randn(rows, cols, generator=generator)
    keep = torch.rand(rows, cols, generator=generator) > 0.5
    rough = gram.bfloat16()
    found: list[torch.Tensor] = [weight, weight, weight]

    def fit(at: int, given: torch.Tensor | None) -> Callable[[], None]:
        def work() -> None:
            found[at] = refit(weight, keep, gram, ridge=_RIDGE, rough=given)

        return work

    def solve() -> None:
        found[2] = torch.stack([_solved(*row, gram) for row in zip(weight[:_SOLVED], keep[:_SOLVED], strict=True)])

    contenders = [(fit(0, rough), rows), (fit(1, None), rows), (solve, _SOLVED)]
    times = [[1e3 * processor_seconds(work) / count for work, count in contenders] for _ in range(rounds + 1)][1:]
    ours, plain, solved = (spread(list(column)) for column in zip(*times, strict=True))
    ratio = spread([other / own for own, other, _ in times])
    start, *ends = (_cost(new[:_SOLVED], weight, keep, gram) for new in (weight * keep, *found))
    gains = [f"{100 * (start - end) / (start - ends[2]):.2f}%" for end in ends[:2]]
    return [f"{cols:,}", show(ours), show(plain), show(solved), show(ratio), *gains]


def _solved(weight: torch.Tensor, keep: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """One row's fit, by a Cholesky factor of its own."""
    inside = gram[keep][:, keep]
    right = (gram[keep] @ weight.masked_fill(keep, 0))[:, None]
    change = torch.cholesky_solve(right, torch.linalg.cholesky(inside + torch.diag(_RIDGE * inside.diagonal())))
    return (weight * keep).masked_scatter_(keep, weight[keep] + change[:, 0])


def _cost(new: torch.Tensor, weight: torch.Tensor, keep: torch.Tensor, gram: torch.Tensor) -> float:
    """The sum that a fit lowers, of some rows."""
    of = len(new)
    off, moved = (weight[:of] - new).double(), (new - weight[:of] * keep[:of]).double()
    return float(((off @ gram.double()) * off).sum() + _RIDGE * (moved.square() * gram.diagonal()).sum())


if __name__ == "__main__":
    main()
