"""How much of every block goes: the same of each, or by what a pass over the dense model finds there.

A block is given one sparsity for all its matrices, attention and MLP together: where single projections were given
theirs, OWL's kind of rule collapsed on models with grouped queries (docs/methods.md). The total stays that of uniform
pruning up to one step of one block.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.calibration import Samples
from submodel.errors import SubmodelError, unknown_name
from submodel.models import Base, blocks_of, matrices_of
from submodel.prune import wanda
from submodel.prune.select import Pattern, keep_mask
from submodel.prune.statistics import Gram, SquaredNorm
from submodel.store import write_json
from submodel.stream import Make, Pruned, Statistic

_SPREAD = 0.08  # OWL's lambda
_OUTLIER = 5.0  # OWL's M
_CHUNK = 1 << 20  # weights


@dataclass(frozen=True)
class Allocation:
    """A rule that scores blocks; the higher a block's score, the more of it is kept.

    Attributes:
        about: one line with the source.
        statistic: what it needs of the inputs of a block's matrices, in the dense model.
        look: weight (rows, cols) as stored, the statistic of its inputs, the pattern asked for -> what `score` gets.
            Called once a matrix, or once for every expert that a token reached.
        score: what was found in one block -> its score.
    """

    about: str
    statistic: Make
    look: Callable[[torch.Tensor, Any, Pattern], Any]
    score: Callable[[Sequence[Any]], float]


def outliers(found: Sequence[tuple[torch.Tensor, SquaredNorm]]) -> float:
    """The fraction of a block's Wanda scores that are above 5 times their mean."""

    def scores() -> Any:
        for weight, inputs in found:
            for part in weight.split(max(1, _CHUNK // weight.shape[1])):
                yield wanda.score(part.float(), inputs)

    weights = sum(weight.numel() for weight, _ in found)
    threshold = _OUTLIER * sum(float(part.sum(dtype=torch.float64)) for part in scores()) / weights
    return sum(int((part > threshold).sum()) for part in scores()) / weights


def relative_error(weight: torch.Tensor, inputs: Gram, pattern: Pattern) -> float:
    """||(W - M W) X||^2 / ||W X||^2 of a matrix for Wanda's mask M; 0 where the output is 0."""
    lost = whole = 0.0
    for part in weight.split(max(1, _CHUNK // weight.shape[1])):
        rows = part.float()
        dropped = rows.masked_fill(keep_mask(wanda.score(rows, inputs), pattern), 0)
        lost += inputs.energy(dropped)
        whole += inputs.energy(rows)
    return lost / whole if whole else 0.0


ALLOCATIONS: dict[str, Allocation | None] = {
    "uniform": None,
    "owl": Allocation(
        "more is kept where more Wanda scores are outliers (arXiv 2310.05175)",
        SquaredNorm,
        lambda weight, inputs, pattern: (weight, inputs),
        outliers,
    ),
    "error": Allocation(
        "more is kept where Wanda's mask costs more of the output",
        Gram,
        relative_error,
        lambda errors: float(np.mean(errors)),
    ),
}


def check_allocation(name: str, pattern: Pattern, domains: Sequence[Samples]) -> None:
    """Raises SubmodelError for an unknown rule, one for an N:M pattern, or one without text to measure on."""
    if name not in ALLOCATIONS:
        raise unknown_name("allocation", name, ALLOCATIONS)
    if ALLOCATIONS[name] is None:
        return
    if pattern.m:
        raise SubmodelError(f"allocation {name}: {pattern} removes as much of every block: give --sparsity instead")
    if not all(domain.ids.numel() for domain in domains):
        raise SubmodelError(f"allocation {name} needs text to look at: give --calibration NAME=PATH[:COLUMN]")


def allocate(
    name: str, base: Base, domains: Sequence[Samples], pattern: Pattern, work: Path, run: Callable[..., int]
) -> dict[str, list[Pattern]]:
    """What to remove of every block for every domain.

    Args:
        name: a key of ALLOCATIONS.
        base: the base model.
        domains: token samples.
        pattern: what to remove of the whole.
        work: the extraction's folder; the result is kept in it, and a pass that was killed goes on.
        run: `stream.walk` but for make, decide, keep and work.

    Returns:
        Domain -> the pattern of each block.
    """
    blocks = blocks_of(base.skeleton(base.dtype))[1]
    rule = ALLOCATIONS[name]
    if rule is None:
        return {domain.name: [pattern] * len(blocks) for domain in domains}
    kept = work / "allocation.json"
    if not kept.exists():
        shapes = [[_rows_and_cols(matrix.weight.shape) for matrix in matrices_of(block, "")] for block in blocks]
        scores = _measure(rule, pattern, work / "dense", run)
        found = {
            domain.name: spread([of_block[domain.name] for of_block in scores], shapes, pattern.sparsity)
            for domain in domains
        }
        write_json(kept, found)
        shutil.rmtree(work / "dense")
    return {domain: [Pattern(s) for s in found] for domain, found in json.loads(kept.read_text()).items()}


def _rows_and_cols(shape: torch.Size) -> tuple[int, int]:
    return shape[:-1].numel(), shape[-1]


def _measure(rule: Allocation, pattern: Pattern, work: Path, run: Callable[..., int]) -> list[dict[str, float]]:
    """Walk the dense model; a score of every block and domain."""
    work.mkdir(exist_ok=True)
    file = work / "scores.json"
    scores: list[dict[str, float]] = json.loads(file.read_text()) if file.exists() else []
    looked: dict[str, dict[tuple[str, int], Any]] = {}

    def look(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        matrices = weight if weight.dim() == 3 else weight[None]
        for index, (matrix, inputs) in enumerate(zip(matrices, statistics or [], strict=True)):
            if inputs is not None:
                looked.setdefault(domain, {})[name, index] = rule.look(matrix, inputs, pattern)
        return Pruned(torch.ones(1, dtype=torch.bool).expand(weight.shape))

    def keep(block: int, _: Any) -> None:
        # in the order of the names, so that a sum does not depend on which thread was faster
        found = {domain: rule.score([seen[key] for key in sorted(seen)]) for domain, seen in looked.items()}
        scores[block:] = [found]
        write_json(file, scores)
        looked.clear()

    run(make=rule.statistic, decide=look, keep=keep, work=work)
    return scores


def spread(
    scores: Sequence[float],
    shapes: Sequence[Sequence[tuple[int, int]]],
    sparsity: float,
    width: float = _SPREAD,
) -> list[float]:
    """Sparsities of blocks from their scores, as OWL has it: kept fractions linear in the scores, 2 x width apart.

    Args:
        scores: one of each block.
        shapes: (rows, cols) of each block's matrices; (experts x rows, cols) for a mixture.
        sparsity: of the whole.
        width: OWL's lambda; less where a block would lose all or gain weights.

    Returns:
        One sparsity a block. The weights they remove together, int(cols * sparsity) of every row, are as many as
        `sparsity` everywhere removes, or fewer by less than the largest number of rows of equal length in a block.
    """
    width = min(width, sparsity / 2, (1 - sparsity) / 2)
    found, sizes = np.array(scores), np.array([sum(rows * cols for rows, cols in block) for block in shapes])
    extent = float(np.ptp(found))
    kept = (found - found.min()) / extent * 2 * width if extent else np.zeros(len(found))
    wanted = sparsity - (kept - np.average(kept, weights=sizes))

    def removed(sparsities: np.ndarray) -> int:
        return sum(
            rows * Pattern(float(s)).removed(cols)
            for s, block in zip(sparsities, shapes, strict=True)
            for rows, cols in block
        )

    asked = removed(np.full(len(wanted), sparsity))
    low, high = -0.5, 0.5  # a shift of all that removes too little or enough, and one that removes too much
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(np.clip(wanted + middle, 0, 1)) <= asked else (low, middle)
    return [float(s) for s in np.clip(wanted + low, 0, 1)]
