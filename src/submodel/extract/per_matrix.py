"""What the walk asks of a step: one matrix, or the experts in one, in parts that fit in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from submodel.base.matrices import all_matrices
from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.extract.workdir import BlockFiles
from submodel.prune.dense_target import Target, gap_of_rows
from submodel.prune.mask import Masks
from submodel.prune.refit import fitter
from submodel.prune.rounding import Grid, rounder
from submodel.prune.scores import SCORES, Score
from submodel.prune.scores.score import Part
from submodel.prune.sparsity import RowSparsity, Sparsity
from submodel.prune.statistics import ClippedGram
from submodel.walk import Afterwards, Decide, Pruned, Statistic

_AT_ONCE = 1 << 20  # weights

_DecideMatrix = Callable[[str, str, int | None, torch.Tensor, Any], Pruned]
"""Domain, matrix, the expert's number in it, its weight (rows, cols), what was seen of its inputs -> what is kept."""


def sparsities(base: Base, of_all: RowSparsity, counts: Mapping[str, np.ndarray]) -> dict[str, Sparsity]:
    """The sparsity of every matrix, from how many weights each of its rows loses.

    Args:
        base: the base model.
        of_all: the sparsity of matrices that have no counts.
        counts: matrix -> int64 (rows,); experts in one parameter are rows.
    """
    result: dict[str, Sparsity] = {}
    for matrix in all_matrices(base.skeleton(base.dtype)):
        rows, cols = matrix.weight.shape[:-1].numel(), matrix.weight.shape[-1]
        removed = torch.from_numpy(counts[matrix.name]) if matrix.name in counts else of_all.removed_of_rows(rows, cols)
        result[matrix.name] = RowSparsity(int(removed.sum()) / (rows * cols), removed)
    return result


def decider(
    score: Score,
    fit: bool,
    sparsity: Sparsity,
    by_domain: Mapping[str, Mapping[str, Sparsity] | None],
    seed: int,
    blocks: BlockFiles,
) -> Decide:
    """The walk's question: the score's answer, its kept weights fitted if asked for.

    Args:
        score: decides every matrix; an expert that no token reached is pruned by magnitude and noted in `blocks`.
        fit: the kept weights are fitted to the dense model.
        sparsity: of every matrix,
        by_domain: but where a domain has sparsities of its own, by matrix.
        seed: of the extraction.
        blocks: the files of this walk.
    """
    observes = fit or score.statistic is not None

    def decide(domain: str, name: str, expert: int | None, weight: torch.Tensor, seen: Any) -> Pruned:
        # an expert that no token reached has no statistic
        unseen = expert is not None and seen is None and observes
        if unseen:
            blocks.note_unseen(domain, f"{name}[{expert}]")
        chosen = SCORES["magnitude"] if unseen else score
        prepared = chosen.prepare(weight, seen)

        # its share of the sparsities
        matrix_sparsity = (by_domain[domain] or {}).get(name, sparsity)
        if expert is not None:
            matrix_sparsity = matrix_sparsity[expert * len(weight) : (expert + 1) * len(weight)]
        matrix = name if expert is None else f"{name}[{expert}]"

        # toward the dense model's output, or by the matrix alone
        if seen is None or not (fit or score.uses_dense_target):
            return _in_parts(
                lambda at, rows, part_sparsity: chosen.prune(
                    rows.float(), prepared, part_sparsity, Part(matrix, at, seed)
                ),
                weight,
                matrix_sparsity,
            )
        gap, by_row = gap_of_rows(seen, weight.device)
        refit = fitter(weight, seen) if fit else None

        def toward_dense(at: int, stored: torch.Tensor, part_sparsity: Sparsity, *share: torch.Tensor) -> Pruned:
            rows = stored.float()
            rows_gap = gap(rows, *share)
            statistic = Target(prepared, rows_gap) if chosen.uses_dense_target else prepared
            keep = chosen.prune(rows, statistic, part_sparsity, Part(matrix, at, seed)).keep
            return Pruned(keep, refit(rows, keep, rows_gap) if refit else None)

        return _in_parts(toward_dense, weight, matrix_sparsity, *by_row)

    return _each_expert(decide)


def keeper(masks: Mapping[str, Masks]) -> Decide:
    """The walk's question when the masks of every domain are known: they stay, and values of their own with them."""

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        mask = masks[domain][name]
        values = None if mask.values is None else mask.apply_to(weight.clone()).cpu()
        return Pruned(torch.from_numpy(mask.unpack()), values)

    return decide


def gridder(grid: Grid) -> Afterwards:
    """What the walk does with a block that has been run pruned: its kept weights are put on a grid (see `rounding`).

    An expert that no token reached keeps its weights.
    """

    def decide(name: str, weight: torch.Tensor, pruned: Pruned, statistics: list[Statistic | None]) -> Pruned:
        keep = pruned.keep.to(weight.device)
        values = weight * keep if pruned.weight is None else pruned.weight.to(weight.device)

        def one(_domain: str, _name: str, expert: int | None, weight: torch.Tensor, seen: Any) -> Pruned:
            kept, kept_values = (keep, values) if expert is None else (keep[expert], values[expert])
            if seen is None:
                return Pruned(kept.cpu(), kept_values.cpu())
            rounded = rounder(weight, seen, grid)
            return _in_parts(lambda at, part, k, v: Pruned(k, rounded(part.float(), k, v)), weight, kept, kept_values)

        return _each_expert(one)("", name, weight, statistics)

    return Afterwards(ClippedGram, decide)


def _each_expert(decide_one: _DecideMatrix) -> Decide:
    """A matrix by itself, or the experts that it holds one after another."""

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        if weight.dim() == 2:
            return decide_one(domain, name, None, weight, statistics[0] if statistics else None)
        if statistics and not any(statistics):
            raise SubmodelError(f"{name}: its experts are not computed by linear layers: cannot prune them")
        seen = statistics or [None] * len(weight)
        experts = [decide_one(domain, name, index, expert, seen[index]) for index, expert in enumerate(weight)]
        if any(expert.weight is not None for expert in experts):
            experts = [
                Pruned(expert.keep, stored.cpu() * expert.keep if expert.weight is None else expert.weight)
                for expert, stored in zip(experts, weight, strict=True)
            ]
        return _joined(torch.stack, experts)

    return decide


def _in_parts(decide: Callable[..., Pruned], weight: torch.Tensor, *others: torch.Tensor | Sparsity) -> Pruned:
    """The answers for some rows at a time: rows are decided independently, and float32 copies of all would be large."""
    rows = max(1, _AT_ONCE // weight.shape[1])
    parts = [slice(at, at + rows) for at in range(0, len(weight), rows)]
    # new weights are rounded as they are stored, so that the walk goes on with what will be loaded
    pruned = [
        _rounded(decide(part.start, weight[part], *(other[part] for other in others)), weight.dtype) for part in parts
    ]
    return _joined(torch.cat, pruned)


def _rounded(pruned: Pruned, dtype: torch.dtype) -> Pruned:
    if pruned.weight is None:
        return Pruned(pruned.keep.cpu())
    weight = pruned.weight.to("cpu", dtype)
    if not weight.isfinite().all():
        raise SubmodelError("a new weight is not finite: the activations overflow; try --dtype float32")
    return Pruned(pruned.keep.cpu(), weight)


def _joined(join: Callable[[list[torch.Tensor]], torch.Tensor], parts: list[Pruned]) -> Pruned:
    weights = [part.weight for part in parts if part.weight is not None]
    return Pruned(join([part.keep for part in parts]), join(weights) if weights else None)
