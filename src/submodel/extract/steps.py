"""The steps of an extraction, and the method names that stand for lists of them.

`parse("wanda+distil", allocation="marginal")` gives `[Allocate("marginal"), Walk("wanda"), Distil()]`. What composes,
composes; what makes no sense is refused in a line.

Where gradients come last, the walk reads the beginning of the text only: its masks have settled by then, and gradients
win more by more text. After a fit they read text that the fit has not read: a model that is fitted to a text says
nearly what the dense model says there, and gradients would learn the rest of it by heart (dev/LOG.md).
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submodel.calibration import Samples, with_openings
from submodel.errors import SubmodelError, unknown_name
from submodel.extract import per_matrix
from submodel.extract.cost import gradient_cost, walk_cost
from submodel.extract.step import Cost, Excerpt, Job, Progress, State, Step, constants
from submodel.extract.vocabulary import ChooseVocabulary
from submodel.extract.workdir import BlockFiles
from submodel.prune import dense_target, gradients, refit, rounding, statistics
from submodel.prune.allocate import ALLOCATIONS, Allocation, rows
from submodel.prune.dense_target import DenseTarget
from submodel.prune.gradients import check_fits
from submodel.prune.learn import distil
from submodel.prune.scores import SCORES, Score
from submodel.prune.sparsity import RowSparsity
from submodel.prune.statistics import SquaredNorm
from submodel.runtime.packed.grids import grid_of
from submodel.walk import Decide, Make, walk

UNIFORM = "uniform"
_WALK_TOKENS = 32768  # that a walk reads where gradients of the whole text come after it
_FIT_TOKENS = 16384  # that a fit reads, at most, where gradients read the rest
_DISTILLED = ("wanda", "ria", "swaps", "pursuit")  # sparsegpt's values hang on its mask; magnitude is a control


@dataclass(frozen=True)
class Allocate:
    """Say how much goes of every row of every matrix; `rule` is a key of ALLOCATIONS other than "uniform"."""

    rule: str
    excerpt: Excerpt = Excerpt()

    @property
    def name(self) -> str:
        return self.rule

    @property
    def reads(self) -> Excerpt:
        return self.excerpt

    def key(self) -> dict[str, Any]:
        rule = _rule(self.rule)
        return {"step": self.rule, **constants(sys.modules[rule.counts.__module__], rows, gradients)}

    def check(self, job: Job) -> None:
        if not isinstance(job.sparsity, RowSparsity):
            raise SubmodelError(
                f"allocation {self.rule}: {job.sparsity} removes as much of every block: give --sparsity instead"
            )
        if not all(text.ids.numel() for text in job.texts.values()):
            raise SubmodelError(f"allocation {self.rule} needs text to look at: give --domain")
        beside = _rule(self.rule).weights_beside * job.dtype.itemsize
        instead = "--allocation uniform, which holds one block in memory"
        check_fits(job.base, job.dtype, job.device, beside=beside, instead=instead)

    def cost(self, job: Job) -> Cost:
        rule = _rule(self.rule)
        tokens = sum(rule.tokens(self.excerpt.of(text)) for text in job.texts.values())
        return gradient_cost(job, tokens, rule.weights_beside * job.dtype.itemsize)

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        rule, count = _rule(self.rule), _Counter(job, progress)
        assert isinstance(job.sparsity, RowSparsity)
        result: dict[str, State] = {}
        for name, state in states.items():
            domain_folder = folder / name
            domain_folder.mkdir(exist_ok=True)
            text = self.excerpt.of(job.texts[name])
            counts = rule.counts(job.dense_model, text, job.sparsity, domain_folder, count)
            sparsities = per_matrix.sparsities(job.base, job.sparsity, counts)
            by_matrix = {matrix: sparsity.fraction for matrix, sparsity in sparsities.items()}
            result[name] = replace(state, sparsities=sparsities, facts={**state.facts, "matrix_sparsity": by_matrix})
        return result


@dataclass(frozen=True)
class Walk:
    """Decide every mask block by block, the inputs of a block being those that the pruned blocks before it give.

    Attributes:
        score: a key of SCORES.
        fit: the kept weights are fitted by least squares toward the dense model, in the same walk.
        grid: a packed format to whose grid the kept weights are rounded when their block has run; None for no rounding.
        excerpt: what it reads of a text, where it reads any.
    """

    score: str
    fit: bool = False
    grid: str | None = None
    excerpt: Excerpt = Excerpt()

    @property
    def name(self) -> str:
        return "walk"

    @property
    def reads(self) -> Excerpt | None:
        return self.excerpt if self.fit or self.grid or SCORES[self.score].statistic else None

    def key(self) -> dict[str, Any]:
        score = SCORES[self.score]
        modules = [sys.modules[score.decide.__module__], per_matrix]
        modules += [statistics] if self.reads else []
        modules += [dense_target] if self._paired else []
        modules += [refit] if self.fit else []
        modules += [rounding, refit] if self.grid else []
        chosen = {"score": self.score, "fit": self.fit, "grid": self.grid, "openings": score.openings}
        return {"step": self.name, **chosen, **constants(*modules)}

    @property
    def _paired(self) -> bool:
        """Whether the dense model walks along."""
        return self.fit or SCORES[self.score].uses_dense_target

    def check(self, job: Job) -> None:
        pass

    def cost(self, job: Job) -> Cost:
        texts = [self.reads.of(text) for text in job.texts.values()] if self.reads else []
        return walk_cost(job, SCORES[self.score], texts, self._paired, self.fit)

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        score, blocks = SCORES[self.score], BlockFiles(folder)
        statistic = DenseTarget if self._paired else score.statistic or (SquaredNorm if self.grid else None)
        sparsities = {name: state.sparsities for name, state in states.items()}
        decide = per_matrix.decider(score, self.fit, job.sparsity, sparsities, job.seed, blocks)
        texts = _walked_texts(job, score, self.excerpt, states)
        _walk(job, texts, statistic, decide, self.grid, folder, blocks, progress, paired=self._paired)
        result: dict[str, State] = {}
        for name, state in states.items():
            masks = blocks.masks(name)
            facts = {**state.facts, "unseen_experts": sorted(masks.unseen)}
            result[name] = replace(state, masks=masks, facts=facts)
        return result


@dataclass(frozen=True)
class Distil:
    """Move the mask by gradients of what the whole sub-model loses against the dense model.

    Attributes:
        excerpt: what it reads of a text.
        after_fit: the kept weights are not the base's, which takes more memory.
    """

    excerpt: Excerpt = Excerpt()
    after_fit: bool = False

    @property
    def name(self) -> str:
        return "distil"

    @property
    def reads(self) -> Excerpt:
        return self.excerpt

    def key(self) -> dict[str, Any]:
        return {"step": self.name, **constants(distil, gradients)}

    def check(self, job: Job) -> None:
        for name, text in job.texts.items():
            if self.after_fit and len(text.ids) < 2:
                raise SubmodelError(
                    f"{name}: {len(text.ids)} sample, of which a part is for the fit and another for gradients: "
                    "give more --tokens, or a lower --seq-len"
                )
        beside = distil.bytes_beside(job.dtype, self.after_fit)
        instead = "--effort good or quick, which hold one block in memory"
        check_fits(job.base, job.dtype, job.device, beside=beside, instead=instead)

    def cost(self, job: Job) -> Cost:
        tokens = sum(sum(self.excerpt.of(text).sizes) for text in job.texts.values())
        return gradient_cost(job, tokens, distil.bytes_beside(job.dtype, self.after_fit))

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        count = _Counter(job, progress)
        result: dict[str, State] = {}
        for name, state in states.items():
            assert state.masks is not None
            distilled = distil.distil(
                job.dense_model,
                self.excerpt.of(job.texts[name]),
                state.masks,
                job.sparsity,
                state=folder / f"{name}.distil",
                dtype=job.base.dtype,
                progress=count,
            )
            facts = {"distil": {"losses": [round(loss, 4) for loss in distilled.losses]}}
            result[name] = replace(state, masks=distilled.masks, facts={**state.facts, **facts})
        return result


@dataclass(frozen=True)
class Round:
    """Round the kept weights of a mask that is there to the grid of a packed format, by what their inputs are.

    Attributes:
        grid: the format.
        score: of the walk that decided the first mask, whose one-token samples this one reads too.
        excerpt: what it reads of a text.
    """

    grid: str
    score: str
    excerpt: Excerpt = Excerpt()

    @property
    def name(self) -> str:
        return "round"

    @property
    def reads(self) -> Excerpt:
        return self.excerpt

    def key(self) -> dict[str, Any]:
        chosen = {"grid": self.grid, "openings": SCORES[self.score].openings}
        return {"step": self.name, **chosen, **constants(statistics, refit, rounding)}

    def check(self, job: Job) -> None:
        pass

    def cost(self, job: Job) -> Cost:
        texts = [self.excerpt.of(text) for text in job.texts.values()]
        return walk_cost(job, SCORES[self.score], texts, paired=False, fit=False)

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        blocks = BlockFiles(folder)
        masks = {name: state.masks for name, state in states.items() if state.masks is not None}
        texts = _walked_texts(job, SCORES[self.score], self.excerpt, states)
        _walk(job, texts, SquaredNorm, per_matrix.keeper(masks), self.grid, folder, blocks, progress)
        return {name: replace(state, masks=blocks.masks(name)) for name, state in states.items()}


def parse(
    method: str, allocation: str = UNIFORM, grid: str | None = None, vocab_loss: float | None = None
) -> list[Step]:
    """The steps that a method's name stands for.

    Args:
        method: a key of SCORES; `+reconstruct` after it fits the kept weights, `+distil` last moves the mask.
        allocation: a key of ALLOCATIONS.
        grid: a packed format to whose grid the kept weights are rounded in the end; None for no rounding.
        vocab_loss: what a domain's text may lose by a smaller vocabulary; all tokens are kept if None.

    Raises:
        SubmodelError: an unknown name, or steps that make no sense one after another.
    """
    score, *more = method.split("+")
    if score not in SCORES:
        if method in _DELETED_METHODS:
            raise SubmodelError(_DELETED_METHODS[method])
        raise unknown_name("method", method, SCORES)
    if more not in ([], ["reconstruct"], ["distil"], ["reconstruct", "distil"]):
        raise SubmodelError(f"method {method}: {_misplaced(score, more)}")
    if "distil" in more and score not in _DISTILLED:
        raise SubmodelError(f"method {method}: distil moves masks of {', '.join(_DISTILLED)}: give one of them")
    if allocation in _DELETED_ALLOCATIONS:
        raise SubmodelError(f"allocation {allocation}: {_DELETED_ALLOCATIONS[allocation]}")
    if allocation not in ALLOCATIONS:
        raise unknown_name("allocation", allocation, ALLOCATIONS)
    if grid is not None:
        grid_of(grid)

    fit, distilled = "reconstruct" in more, "distil" in more
    first = Excerpt()
    if distilled:
        first = Excerpt(tokens=_FIT_TOKENS, half=True) if fit else Excerpt(tokens=_WALK_TOKENS)
    steps: list[Step] = [] if ALLOCATIONS[allocation] is None else [Allocate(allocation, first)]
    steps.append(Walk(score, fit, None if distilled else grid, first))
    if distilled:
        steps.append(Distil(replace(first, rest=True) if fit else Excerpt(), after_fit=fit))
        if grid is not None:
            steps.append(Round(grid, score, first))
    if vocab_loss is not None:  # last: no other step hangs on it, so that the result of those before serves both
        steps.append(ChooseVocabulary(vocab_loss))
    return steps


def reads_text(method: str, allocation: str = UNIFORM, grid: str | None = None) -> bool:
    """Whether a method needs calibration text. Raises SubmodelError as `parse`."""
    return any(step.reads for step in parse(method, allocation, grid))


_DELETED_METHODS = {"auto": "--method auto is now --effort best (docs/guide/choose-a-method.md)"}
_DELETED_ALLOCATIONS = {
    name: "removed, since rows and marginal lose less (docs/results/settled.md): give rows or marginal"
    for name in ("owl", "error", "loss")
}


def _misplaced(score: str, more: list[str]) -> str:
    if more == ["distil", "reconstruct"]:
        return (
            "a fit after distil was removed, since gradients after the fit lose less (docs/results/settled.md): "
            f"give {score}+reconstruct+distil"
        )
    return "after the first name come +reconstruct, +distil or +reconstruct+distil"


def _rule(name: str) -> Allocation:
    rule = ALLOCATIONS[name]
    assert rule is not None
    return rule


def _walked_texts(job: Job, score: Score, excerpt: Excerpt, names: Iterable[str]) -> list[Samples]:
    """What a walk reads of each domain, with the one-token samples that a score wants beside it."""
    texts = [excerpt.of(job.texts[name]) for name in names]
    if not score.openings:
        return texts
    vocabulary = job.base.config.get_text_config().vocab_size
    return [with_openings(text, score.openings, vocabulary) for text in texts]


def _walk(
    job: Job,
    texts: Sequence[Samples],
    statistic: Make | None,
    decide: Decide,
    grid: str | None,
    folder: Path,
    blocks: BlockFiles,
    progress: Progress,
    paired: bool = False,
) -> None:
    """A walk of this job, its blocks kept in a step's folder and rounded to a grid, if there is one."""
    walk(
        job.base,
        texts,
        make=statistic,
        paired=paired,
        decide=decide,
        keep=blocks.keep,
        work=folder,
        afterwards=per_matrix.gridder(grid_of(grid)) if grid else None,
        dtype=job.dtype,
        device=job.device,
        batch_tokens=job.batch_tokens,
        progress=lambda done, total: progress(done),
    )


class _Counter:
    """Counts tokens of gradients, told a few at a time and for one domain after another, as runs of blocks."""

    def __init__(self, job: Job, progress: Progress):
        self._runs, self._progress, self._tokens = gradients.RUNS * job.blocks, progress, 0

    def __call__(self, tokens: int) -> None:
        self._tokens += tokens
        self._progress(self._runs * self._tokens)
