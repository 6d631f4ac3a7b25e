"""What the walk asks of a method: one matrix, or the experts of one, in parts that fit in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from submodel.errors import SubmodelError
from submodel.extract.workdir import Work
from submodel.prune import METHODS
from submodel.prune.dense_target import Aimed, asking
from submodel.prune.refit import fitter
from submodel.prune.rounding import rounder
from submodel.prune.scores.score import Method
from submodel.prune.sparsity import Pattern
from submodel.prune.statistics import ClippedGram
from submodel.runtime.packed.formats import grid_of
from submodel.store import Mask, Masks
from submodel.walk import Afterwards, Decide, Pruned, Statistic

_AT_ONCE = 1 << 20  # weights


_One = Callable[[str, str, int | None, torch.Tensor, Any], Pruned]
"""Domain, matrix, the expert's number in it, the weight (rows, cols) and what was seen of its inputs -> its answer."""


def decider(method: Method, patterns: Mapping[str, Mapping[str, Pattern]], work: Work) -> Decide:
    """The walk's question: `method`'s answer, its kept weights fitted where it says so, rounded as they will be stored.

    Args:
        method: of every matrix; an expert that no token reached is pruned by magnitude and noted in `work`.
        patterns: domain -> matrix -> its pattern.
        work: of this walk.
    """

    def one(domain: str, name: str, expert: int | None, weight: torch.Tensor, seen: Any) -> Pruned:
        unseen = expert is not None and seen is None and method.observes
        if unseen:
            work.note_unseen(domain, f"{name}[{expert}]")
        by = METHODS["magnitude"] if unseen else method
        prepared = by.prepare(weight, seen)
        pattern = patterns[domain][name]
        if expert is not None:
            pattern = pattern[expert * len(weight) : (expert + 1) * len(weight)]
        if seen is None or not method.paired:
            return _in_parts(lambda part, own: by.prune(part.float(), prepared, own), weight, pattern)
        ask, shares = asking(seen, weight.device)
        fit = fitter(weight, seen) if method.fits else None

        def toward(part: torch.Tensor, own: Pattern, *share: torch.Tensor) -> Pruned:
            rows = part.float()
            asked = ask(rows, *share)
            keep = by.prune(rows, Aimed(prepared, asked) if by.toward else prepared, own).keep
            return Pruned(keep, fit(rows, keep, asked) if fit else None)

        return _in_parts(toward, weight, pattern, *shares)

    return _asked(one)


def keeper(masks: Mapping[str, Masks]) -> Decide:
    """The walk's question when the masks of every domain are known: they stay, and values of their own with them."""

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        mask = masks[domain][name]
        own = None if mask.values is None else mask.apply_to(weight.clone()).cpu()
        return Pruned(torch.from_numpy(mask.unpack()), own)

    return decide


def refitter(masks: Mapping[str, Masks]) -> Decide:
    """The walk's question when the masks are known: their kept weights, fitted (see `reconstruct`) and rounded.

    Args:
        masks: of every domain. An expert that no token reached keeps its weights.
    """

    def one(domain: str, name: str, expert: int | None, weight: torch.Tensor, seen: Any) -> Pruned:
        mask = masks[domain][name]
        own = mask if expert is None else Mask(mask.packed[expert], mask.cols)
        keep = torch.from_numpy(own.unpack()).to(weight.device)
        if seen is None:
            return Pruned(keep.cpu(), (weight * keep).cpu())
        fit, (ask, shares) = fitter(weight, seen), asking(seen, weight.device)

        def fitted(part: torch.Tensor, kept: torch.Tensor, *share: torch.Tensor) -> Pruned:
            rows = part.float()
            return Pruned(kept, fit(rows, kept, ask(rows, *share)))

        return _in_parts(fitted, weight, keep, *shares)

    return _asked(one)


def gridder(grid: str) -> Afterwards:
    """What the walk does with a block that has been run pruned: its kept weights are put on a grid (see `rounding`).

    An expert that no token reached keeps its weights.
    """

    wanted = grid_of(grid)

    def decide(name: str, weight: torch.Tensor, left: Pruned, statistics: list[Statistic | None]) -> Pruned:
        keep = left.keep.to(weight.device)
        own = weight * keep if left.weight is None else left.weight.to(weight.device)

        def one(_domain: str, _name: str, expert: int | None, weight: torch.Tensor, seen: Any) -> Pruned:
            kept, values = (keep, own) if expert is None else (keep[expert], own[expert])
            if seen is None:
                return Pruned(kept.cpu(), values.cpu())
            find = rounder(weight, seen, wanted)
            return _in_parts(lambda part, k, v: Pruned(k, find(part.float(), k, v)), weight, kept, values)

        return _asked(one)("", name, weight, statistics)

    return Afterwards(ClippedGram, decide)


def _asked(one: _One) -> Decide:
    """A matrix by itself, or the experts that it holds one after another."""

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        if weight.dim() == 2:
            return one(domain, name, None, weight, statistics[0] if statistics else None)
        if statistics and not any(statistics):
            raise SubmodelError(f"{name}: its experts are not computed by linear layers: cannot prune them")
        seen = statistics or [None] * len(weight)
        experts = [one(domain, name, index, expert, seen[index]) for index, expert in enumerate(weight)]
        if any(expert.weight is not None for expert in experts):
            experts = [
                Pruned(e.keep, own.cpu() * e.keep if e.weight is None else e.weight)
                for e, own in zip(experts, weight, strict=True)
            ]
        return _joined(torch.stack, experts)

    return decide


def _in_parts(answer: Callable[..., Pruned], weight: torch.Tensor, *others: torch.Tensor | Pattern) -> Pruned:
    """The answers for some rows at a time: they are decided on their own, and float32 copies of all would be large."""
    rows = max(1, _AT_ONCE // weight.shape[1])
    parts = [slice(at, at + rows) for at in range(0, len(weight), rows)]
    # new weights are rounded as they are stored, so that the walk goes on with what will be loaded
    left = [_rounded(answer(weight[part], *(other[part] for other in others)), weight.dtype) for part in parts]
    return _joined(torch.cat, left)


def _rounded(left: Pruned, dtype: torch.dtype) -> Pruned:
    if left.weight is None:
        return Pruned(left.keep.cpu())
    weight = left.weight.to("cpu", dtype)
    if not weight.isfinite().all():
        raise SubmodelError("a new weight is not finite: the activations overflow; try --dtype float32")
    return Pruned(left.keep.cpu(), weight)


def _joined(join: Callable[[list[torch.Tensor]], torch.Tensor], parts: list[Pruned]) -> Pruned:
    weights = [part.weight for part in parts if part.weight is not None]
    return Pruned(join([part.keep for part in parts]), join(weights) if weights else None)
