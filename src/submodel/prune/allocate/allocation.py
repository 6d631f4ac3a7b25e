"""How much goes of every block, of its attention and its MLP, or of every row: the same of each, or by a look at the
dense model.

`owl` and `error` walk it and give a block one sparsity; `loss` takes gradients of the whole model and tells a block's
attention from its MLP. None of them goes down to single projections: OWL's rule collapsed there on models with grouped
queries, and ours won on one model and lost on the other (docs/methods.md, dev/LOG.md). `rows` does, and to the rows in
them, by what one more weight of a row costs the model, and `marginal` by what it wins in the sub-model. The total stays
that of uniform pruning up to one step of one part, and exactly with the last two.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.base.files import write_json
from submodel.base.matrices import all_matrices, split_name
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError, unknown_name
from submodel.prune.allocate import marginal, sensitivity
from submodel.prune.allocate.spread import by_rows, linear, logarithmic
from submodel.prune.scores import wanda
from submodel.prune.sparsity import Pattern, keep_mask
from submodel.prune.statistics import Gram, SquaredNorm
from submodel.walk import Make, Pruned, Statistic

_OUTLIER = 5.0  # OWL's M
_CHUNK = 1 << 20  # weights


@dataclass(frozen=True)
class Look:
    """What a rule may look at.

    Attributes:
        shapes: matrix -> (rows, cols), experts in one parameter as rows.
        domains: token samples.
        pattern: what to remove of the whole.
        work: a folder for what is done, thrown away when the allocation is there.
        walk: `stream.walk` over the domains but for make, decide, keep and work.
        gradients: runs `sensitivity.costs` or the like on a text, given what else it takes.
    """

    shapes: Mapping[str, tuple[int, int]]
    domains: Sequence[Samples]
    pattern: Pattern
    work: Path
    walk: Callable[..., int]
    gradients: Callable[..., Any]


@dataclass(frozen=True)
class Allocation:
    """A rule for the sparsities of matrices.

    Attributes:
        about: one line with the source.
        find: domain -> matrix -> sparsity, or how many weights each of its rows loses.
        walks: how many passes of the walk it takes.
        reads: how many tokens of a domain's text it takes gradients of the whole model of; None if of none.
        masked: those are a sub-model's gradients, by its weights.
        by_row: rows of a matrix do not lose as many each.
    """

    about: str
    find: Callable[[Look], Mapping[str, Mapping[str, float | list[int]]]]
    walks: int = 0
    reads: Callable[[Samples], int] | None = None
    masked: bool = False
    by_row: bool = False


@dataclass(frozen=True)
class _Score:
    """How a rule scores blocks in one walk over the dense model; the higher a block's score, the more of it is kept.

    Attributes:
        statistic: what it needs of the inputs of a block's matrices.
        look: weight (rows, cols) as stored, the statistic of its inputs, the pattern asked for -> what `score` gets.
            Called once a matrix, or once for every expert that a token reached.
        score: what was found in one block -> its score.
    """

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


def _by_blocks(rule: _Score, look: Look) -> dict[str, dict[str, float]]:
    blocks = _parts(look.shapes, lambda name: split_name(name)[0])
    scores = _measure(rule, look)
    return {d.name: _spread(linear, [found[d.name] for found in scores], blocks, look) for d in look.domains}


def _by_loss(look: Look) -> dict[str, dict[str, float]]:
    parts = _parts(look.shapes, attention_or_mlp)
    look.work.mkdir(exist_ok=True)
    file = look.work / "costs.json"
    costs: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.exists() else {}
    for domain in look.domains:
        if domain.name not in costs:
            costs[domain.name] = look.gradients(sensitivity.costs, domain.first(sensitivity.TOKENS), look.pattern)
            write_json(file, costs)
    each = {domain: [sum(of[name] for name in part) for part in parts] for domain, of in costs.items()}
    return {domain: _spread(logarithmic, found, parts, look) for domain, found in each.items()}


def _by_rows(look: Look, *, rounds: bool = False) -> dict[str, dict[str, list[int]]]:
    look.work.mkdir(exist_ok=True)
    even = {name: [look.pattern.removed(cols)] * rows for name, (rows, cols) in look.shapes.items()}
    found: dict[str, dict[str, list[int]]] = {}
    for domain in look.domains:
        file, kept = look.work / f"{domain.name}.json", look.work / f"{domain.name}.costs"
        if not file.exists():
            costs = _row_costs(look, domain, kept)
            if rounds:
                state = look.work / f"{domain.name}.rounds"
                counts = look.gradients(marginal.balanced, domain, costs, look.pattern, state=state)
            else:
                cols = [look.shapes[name][1] for name in costs]
                removed = by_rows(list(costs.values()), cols, look.pattern.sparsity)
                counts = {name: own.tolist() for name, own in zip(costs, removed, strict=True)}
            write_json(file, counts)
        found[domain.name] = even | json.loads(file.read_text())
    return found


def _row_costs(look: Look, domain: Samples, file: Path) -> dict[str, np.ndarray]:
    """Kept in a file."""
    if not file.exists():
        costs = look.gradients(sensitivity.row_costs, domain.first(sensitivity.TOKENS), look.pattern)
        write_json(file, {name: own.tolist() for name, own in costs.items()})
    return {name: np.array(own) for name, own in json.loads(file.read_text()).items()}


def _first(domain: Samples) -> int:
    return sum(domain.first(sensitivity.TOKENS).sizes)


def _first_and_rounds(domain: Samples) -> int:
    return _first(domain) + sum(sum(domain.sizes[part]) for part in marginal.rounds_of(domain))


def attention_or_mlp(name: str) -> tuple[int, str]:
    """The part of a block that a matrix belongs to: `model.layers.3.mlp.down_proj.weight` -> (3, "mlp").

    What the block holds by itself, as OPT's fc1 and fc2, is one part: (3, "").
    """
    block, kind = split_name(name)
    return block, kind.partition(".")[0] if "." in kind else ""


def _parts(names: Iterable[str], key: Callable[[str], Any]) -> list[list[str]]:
    parts: dict[Any, list[str]] = {}
    for name in names:
        parts.setdefault(key(name), []).append(name)
    return list(parts.values())


def _spread(
    rule: Callable[..., list[float]], found: Sequence[float], parts: Sequence[Sequence[str]], look: Look
) -> dict[str, float]:
    """Matrix -> sparsity, by a rule of `spread` from what was found of each part."""
    shapes = [[look.shapes[name] for name in part] for part in parts]
    sparsities = zip(parts, rule(found, shapes, look.pattern.sparsity), strict=True)
    return {name: sparsity for part, sparsity in sparsities for name in part}


UNIFORM = "uniform"
ALLOCATIONS: dict[str, Allocation | None] = {
    UNIFORM: None,
    "owl": Allocation(
        "more is kept of blocks where more Wanda scores are outliers (arXiv 2310.05175)",
        partial(_by_blocks, _Score(SquaredNorm, lambda weight, inputs, pattern: (weight, inputs), outliers)),
        walks=1,
    ),
    "error": Allocation(
        "more is kept of blocks where Wanda's mask costs more of the output",
        partial(_by_blocks, _Score(Gram, relative_error, lambda errors: float(np.mean(errors)))),
        walks=1,
    ),
    "loss": Allocation(
        "more is kept of the attention or MLP that costs the model's loss more", _by_loss, reads=_first, masked=True
    ),
    "rows": Allocation(
        "more is kept of rows whose outputs the model's loss feels more", _by_rows, reads=_first, by_row=True
    ),
    "marginal": Allocation(
        "rows, and then matrices, until one more weight wins as much in each",
        partial(_by_rows, rounds=True),
        reads=_first_and_rounds,
        masked=True,
        by_row=True,
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
    name: str,
    base: Base,
    domains: Sequence[Samples],
    pattern: Pattern,
    work: Path,
    walk: Callable[..., int],
    gradients: Callable[..., Any],
) -> dict[str, dict[str, Pattern]]:
    """What to remove of every matrix for every domain.

    Args:
        name: a key of ALLOCATIONS.
        base: the base model.
        domains: token samples.
        pattern: what to remove of the whole.
        work: the extraction's folder; the result is kept in it, and a walk that was killed goes on.
        walk, gradients: as `Look` has them.

    Returns:
        Domain -> matrix -> its pattern.
    """
    matrices = all_matrices(base.skeleton(base.dtype))
    rule = ALLOCATIONS[name]
    if rule is None:
        return {domain.name: {matrix.name: pattern for matrix in matrices} for domain in domains}
    kept = work / "allocation.json"
    if not kept.exists():
        shapes = {matrix.name: _rows_and_cols(matrix.weight.shape) for matrix in matrices}
        look = Look(shapes, domains, pattern, work / "dense", walk, gradients)
        write_json(kept, rule.find(look))
        shutil.rmtree(work / "dense", ignore_errors=True)
    cols = {matrix.name: matrix.weight.shape[-1] for matrix in matrices}
    return {
        domain: {matrix: _pattern(given, cols[matrix]) for matrix, given in found.items()}
        for domain, found in json.loads(kept.read_text()).items()
    }


def _pattern(given: float | list[int], cols: int) -> Pattern:
    """Of a matrix, from its sparsity or from how many of the columns each of its rows loses."""
    if not isinstance(given, list):
        return Pattern(given)
    counts = torch.tensor(given)
    return Pattern(int(counts.sum()) / (len(given) * cols), counts=counts)


def _rows_and_cols(shape: torch.Size) -> tuple[int, int]:
    return shape[:-1].numel(), shape[-1]


def _measure(rule: _Score, of: Look) -> list[dict[str, float]]:
    """Walk the dense model; a score of every block and domain."""
    of.work.mkdir(exist_ok=True)
    file = of.work / "scores.json"
    scores: list[dict[str, float]] = json.loads(file.read_text()) if file.exists() else []
    looked: dict[str, dict[tuple[str, int], Any]] = {}

    def look(domain: str, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> Pruned:
        matrices = weight if weight.dim() == 3 else weight[None]
        for index, (matrix, inputs) in enumerate(zip(matrices, statistics or [], strict=True)):
            if inputs is not None:
                looked.setdefault(domain, {})[name, index] = rule.look(matrix, inputs, of.pattern)
        return Pruned(torch.ones(1, dtype=torch.bool).expand(weight.shape))

    def keep(block: int, _: Any) -> None:
        # in the order of the names, so that a sum does not depend on which thread was faster
        found = {domain: rule.score([seen[key] for key in sorted(seen)]) for domain, seen in looked.items()}
        scores[block:] = [found]
        write_json(file, scores)
        looked.clear()

    of.walk(make=rule.statistic, decide=look, keep=keep, work=of.work)
    return scores
