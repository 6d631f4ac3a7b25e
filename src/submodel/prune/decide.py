"""What the walk asks of a method: one matrix, or the experts of one, in parts that fit in memory."""

from collections.abc import Callable

import torch

from submodel.errors import SubmodelError
from submodel.prune import METHODS
from submodel.prune.method import Method
from submodel.prune.select import Pattern
from submodel.prune.work import Work
from submodel.stream import Pruned, Statistic

_AT_ONCE = 1 << 20  # weights


def decider(
    method: Method, patterns: dict[str, dict[str, Pattern]], work: Work
) -> Callable[[str, str, torch.Tensor, list[Statistic | None] | None], Pruned]:
    """The walk's question: `method`'s answer, rounded as it will be stored.

    Args:
        method: of every matrix; an expert that no token reached is pruned by magnitude and noted in `work`.
        patterns: domain -> matrix -> its pattern.
    """

    def pruned(weight: torch.Tensor, seen: Statistic | None, by: Method, pattern: Pattern) -> Pruned:
        # rows are decided on their own, so a part of them at a time spares float32 copies of the whole
        prepared = by.prepare(weight, seen)
        parts = weight.split(max(1, _AT_ONCE // weight.shape[1]))
        # new weights are rounded as they are stored, so that the walk goes on with what will be loaded
        return _joined(torch.cat, [_rounded(by.prune(part.float(), prepared, pattern), part.dtype) for part in parts])

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        pattern = patterns[domain][name]
        if weight.dim() == 2:
            return pruned(weight, statistics[0] if statistics else None, method, pattern)
        if statistics and not any(statistics):
            raise SubmodelError(f"{name}: its experts are not computed by linear layers: cannot prune them")
        experts: list[Pruned] = []
        for index, expert in enumerate(weight):
            seen = statistics[index] if statistics else None
            unseen = statistics is not None and seen is None
            if unseen:
                work.note_unseen(domain, f"{name}[{index}]")
            experts.append(pruned(expert, seen, METHODS["magnitude"] if unseen else method, pattern))
        if any(expert.weight is not None for expert in experts):
            experts = [
                Pruned(e.keep, own.cpu() * e.keep if e.weight is None else e.weight)
                for e, own in zip(experts, weight, strict=True)
            ]
        return _joined(torch.stack, experts)

    return decide


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
