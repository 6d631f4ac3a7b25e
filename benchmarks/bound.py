"""How far swaps end from the best mask there is: real rows against an exact solver and against a bound.

    python -m benchmarks.bound MODEL --text SPEC [--tokens 8192] [--rows 8] [--cols 20] [--matrix NAME ...]

For every matrix, rows drawn at random, half of each removed. *Cut* rows are a column and those most correlated with
it, with their part of the Gram matrix, so small that a mixed-integer solver (HiGHS) finds the best mask. *Whole* rows
have a bound from below: the least error when a weight may be dropped in part, less the gap that is left when the
search for it stops. The best mask lies between that bound and what swaps reach. All errors are divided by those of
Wanda's mask.
"""

import argparse
import json
import statistics
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse

from benchmarks.measure import table
from submodel.calibration import load_samples
from submodel.prune.scores.exchange import exchange
from submodel.prune.sparsity import RowSparsity, keep_mask
from submodel.prune.statistics import Gram
from submodel.runtime import load
from submodel.runtime.load import Loaded

KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def grams(loaded: Loaded, names: list[str], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Matrix -> the Gram matrix of its inputs, float64 (cols, cols)."""
    seen: dict[str, Gram] = {}
    handles = []
    for name in names:
        module = loaded.model.get_submodule(name)
        seen[name] = Gram(module.weight.shape[1], torch.device("cpu"))  # type: ignore[union-attr]
        handles.append(module.register_forward_pre_hook(lambda _, x, to=seen[name]: to.update(x[0].flatten(0, -2))))
    with torch.inference_mode():
        for sample in ids:
            loaded.model(sample[None])
    for handle in handles:
        handle.remove()
    return {name: gram.products.double() for name, gram in seen.items()}


def best_error(weight: np.ndarray, gram: np.ndarray, drop: int, seconds: float) -> tuple[float, bool]:
    """The least error of a row (cols,) when `drop` of its weights go, and whether it is proven.

    The product of two decisions is a variable of its own, held down or up by McCormick's inequalities.
    """
    cols = len(weight)
    energy = np.outer(weight, weight) * gram
    first, second = np.triu_indices(cols, 1)
    crossed = 2 * energy[first, second]
    pairs = len(first)
    each = np.arange(pairs)
    one = np.ones(pairs)

    def rows(*terms: tuple[np.ndarray, float]) -> sparse.coo_matrix:
        at = np.concatenate([columns for columns, _ in terms])
        values = np.concatenate([factor * one for _, factor in terms])
        return sparse.coo_matrix((values, (np.tile(each, len(terms)), at)), (pairs, cols + pairs))

    product = cols + each
    limits = [
        optimize.LinearConstraint(rows((product, 1), (first, -1), (second, -1)), lb=-1),
        optimize.LinearConstraint(rows((product, 1), (first, -1)), ub=0),
        optimize.LinearConstraint(rows((product, 1), (second, -1)), ub=0),
        optimize.LinearConstraint(np.r_[np.ones(cols), np.zeros(pairs)][None], drop, drop),
    ]
    found = optimize.milp(
        np.r_[energy.diagonal(), crossed],
        constraints=limits,
        integrality=np.r_[np.ones(cols), np.zeros(pairs)],
        bounds=optimize.Bounds(0, 1),
        options={"time_limit": seconds, "mip_rel_gap": 1e-6},
    )
    return (float(found.fun), bool(found.status == 0)) if found.x is not None else (float("nan"), False)


def bound(weight: torch.Tensor, gram: torch.Tensor, drop: int, steps: int = 3000) -> torch.Tensor:
    """What no mask of `drop` weights a row can go below, float64 (rows,); weight float64 (rows, cols).

    Minimises u Q u over 0 <= u <= 1 with sum `drop` by projected gradients with momentum; as the problem is convex,
    the linear model at any u is a bound from below, and the best one seen is returned.
    """
    scale = float(torch.linalg.eigvalsh(gram)[-1])
    step = 0.5 / (weight.square().amax(1, keepdim=True) * scale)
    u = torch.full_like(weight, drop / weight.shape[1])
    ahead, before = u, 1.0
    best = torch.zeros(len(weight), dtype=weight.dtype)
    for turn in range(steps):
        slope = 2 * weight * ((ahead * weight) @ gram)
        if turn % 20 == 0:
            value = 0.5 * (slope * ahead).sum(1)
            least = slope.topk(drop, 1, largest=False).values.sum(1)
            best = torch.maximum(best, value - (slope * ahead).sum(1) + least)
        new = project(ahead - step * slope, drop)
        now = (1 + (1 + 4 * before * before) ** 0.5) / 2
        ahead, u, before = new + (before - 1) / now * (new - u), new, now
    return best


def project(point: torch.Tensor, total: int) -> torch.Tensor:
    """The nearest point (rows, cols) with entries in [0, 1] and sum `total` a row: a shift, found by halving."""
    low, high = point.amin(1, keepdim=True) - 1, point.amax(1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        much = (point - middle).clamp(0, 1).sum(1, keepdim=True) > total
        low, high = torch.where(much, middle, low), torch.where(much, high, middle)
    return (point - high).clamp(0, 1)


def _error(weight: torch.Tensor, keep: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    dropped = weight.masked_fill(keep, 0)
    return ((dropped @ gram) * dropped).sum(1)


def compare(weight: torch.Tensor, gram: torch.Tensor, rows: int, cols: int, seconds: float) -> dict[str, Any]:
    """Errors against Wanda's of one matrix: medians over rows drawn at random."""
    generator = torch.Generator().manual_seed(0)
    chosen = weight[torch.randperm(len(weight), generator=generator)[:rows]].double()
    pattern = RowSparsity(0.5)

    def wanda_and_swaps(w: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = exchange(w.float(), g.float(), pattern, rounds=1000)
        start = keep_mask((w.abs() * g.diagonal().sqrt()).float(), pattern)
        return _error(w, start, g), _error(w, found.keep, g)

    start, end = wanda_and_swaps(chosen, gram)
    low = bound(chosen, gram, chosen.shape[1] // 2)
    cut_swaps, cut_best, proven = [], [], 0
    for row in chosen:
        first_column = int(torch.randint(len(row), (1,), generator=generator))
        at = (gram[first_column].abs() / gram.diagonal().sqrt()).topk(cols).indices
        w, g = row[at], gram[at][:, at]
        first, swapped = (float(x) for x in wanda_and_swaps(w[None], g))
        best, sure = best_error(
            w.numpy() * 1.0 / w.abs().mean().item(), g.numpy() / g.diagonal().mean().item(), cols // 2, seconds
        )
        if not sure:
            continue
        proven += 1
        unit = w.abs().mean().item() ** 2 * g.diagonal().mean().item()
        cut_swaps.append(swapped / first)
        cut_best.append(best * unit / first)
    middle = lambda values: round(statistics.median(values), 3) if len(values) else None  # noqa: E731
    return {
        "rows": rows,
        "swaps": middle((end / start).tolist()),
        "bound": middle((low / start).tolist()),
        "cut_swaps": middle(cut_swaps),
        "cut_best": middle(cut_best),
        "cut_reached": sum(s <= b * (1 + 1e-4) for s, b in zip(cut_swaps, cut_best, strict=True)),
        "cut_proven": proven,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model")
    options.add_argument("--text", required=True, metavar="PATH[:COLUMN]")
    options.add_argument("--tokens", type=int, default=8192)
    options.add_argument("--rows", type=int, default=8)
    options.add_argument("--cols", type=int, default=20, help="of a cut row")
    options.add_argument("--seconds", type=float, default=60, help="for one cut row at most")
    options.add_argument(
        "--matrix", action="append", default=[], help="(default: four kinds in an early and a late block)"
    )
    args = options.parse_args()
    loaded = load(args.model)
    ids = load_samples("text", args.text, loaded.tokenizer, samples=args.tokens // 512, seq_len=512, seed=0).ids
    blocks = loaded.model.config.get_text_config().num_hidden_layers
    names = args.matrix or [f"model.layers.{b}.{kind}" for b in (blocks // 4, 3 * blocks // 4) for kind in KINDS]
    lines = [["matrix", "swaps", "bound", "cut: swaps", "cut: best", "reached", "proven"]]
    for name, gram in grams(loaded, names, ids).items():
        weight: torch.Tensor = loaded.model.get_submodule(name).weight.data  # type: ignore[union-attr,assignment]
        found = compare(weight, gram, args.rows, args.cols, args.seconds)
        print(json.dumps({"matrix": name, **found}), flush=True)
        lines.append(
            [name, *(str(found[k]) for k in ("swaps", "bound", "cut_swaps", "cut_best", "cut_reached", "cut_proven"))]
        )
    print("\nerror against Wanda's mask, medians over rows; 50%")
    print(table(lines))


if __name__ == "__main__":
    main()
