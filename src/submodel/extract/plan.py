"""A plan: the steps that an extraction will take, with what each costs, before any work begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from submodel.base.arithmetic import default_dtype
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.calibration.vocabulary_text import VocabularyText
from submodel.errors import SubmodelError
from submodel.extract.cost import seconds
from submodel.extract.effort import DEFAULT, method_for
from submodel.extract.recipe import Method
from submodel.extract.step import Cost, Job, Step
from submodel.extract.steps import UNIFORM, Distil, Round, Walk, parse
from submodel.extract.vocabulary import ChooseVocabulary
from submodel.prune.sparsity import RowSparsity, Sparsity
from submodel.store import check_names
from submodel.store.calibration import left_out


@dataclass(frozen=True)
class Plan:
    """What an extraction will do.

    Attributes:
        job: the base, the texts, the sparsity and the arithmetic.
        method: the names that were asked for, or that an effort stands for.
        steps: in their order.
        costs: of each step.
    """

    job: Job
    method: Method
    steps: tuple[Step, ...]
    costs: tuple[Cost, ...]

    @property
    def block_tokens(self) -> int:
        """Of all steps: what progress is measured in."""
        return sum(cost.block_tokens for cost in self.costs)

    @property
    def seconds(self) -> float:
        """How long it will take on this machine, roughly."""
        return sum(seconds(cost, self.job.dtype, self.job.device) for cost in self.costs)

    @property
    def memory_bytes(self) -> int:
        """The most that a step needs at once, beside the interpreter and its libraries."""
        return max(cost.memory_bytes for cost in self.costs)

    @property
    def lines(self) -> list[str]:
        """For a person."""
        texts = [f"{name} ({sum(text.sizes):,} tokens)" for name, text in self.job.texts.items() if text.ids.numel()]
        spread = "" if self.method.allocation == UNIFORM else f" by {self.method.allocation}"
        sparsity = self.job.sparsity
        removed = (
            f"{sparsity.fraction:.0%} of the weights" if isinstance(sparsity, RowSparsity) else f"all but {sparsity}"
        )
        head = f"plan: {self.method.name}, {removed} removed{spread}"
        lines = [f"{head}, for {', '.join(texts)}" if texts else head]
        for name, text in self.job.texts.items():
            lines += [f"  {name}: {line}" for line in left_out({"parts": text.parts})]
        for step, cost in zip(self.steps, self.costs, strict=True):
            minutes = seconds(cost, self.job.dtype, self.job.device) / 60
            lines.append(f"  {describe(step)}: about {_minutes(minutes)}, {cost.memory_bytes / 2**30:.1f} GiB")
        return lines

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "method": self.method.name,
            "allocation": self.method.allocation,
            "sparsity": self.job.sparsity.fraction,
            "pattern": str(self.job.sparsity),
            "tokens": {name: sum(text.sizes) for name, text in self.job.texts.items()},
            "steps": [
                {
                    "step": step.key(),
                    "seconds": round(seconds(cost, self.job.dtype, self.job.device), 1),
                    "memory_bytes": cost.memory_bytes,
                }
                for step, cost in zip(self.steps, self.costs, strict=True)
            ],
        }


def make_plan(
    base: Base,
    domains: Sequence[Samples],
    *,
    method: str | None = None,
    allocation: str | None = None,
    effort: str | None = None,
    sparsity: Sparsity | None = None,
    grid: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    batch_tokens: int = 512,
    vocab_loss: float | None = None,
    vocabulary_texts: Mapping[str, VocabularyText] | None = None,
) -> Plan:
    """What `extract` will do, given the same arguments; nothing is read or written.

    Raises SubmodelError as `extract` does.
    """
    sparsity = sparsity or RowSparsity(0.5)
    dtype = dtype or default_dtype(device)
    if method is not None and effort is not None:
        raise SubmodelError(f"--effort {effort} chooses a method: give it or --method {method}, not both")
    chosen = Method(method) if method is not None else method_for(effort or DEFAULT, base, sparsity, dtype, device)
    chosen = replace(chosen, allocation=allocation or chosen.allocation, grid=grid, vocab_loss=vocab_loss)
    check_names([domain.name for domain in domains])
    steps = parse(chosen.name, chosen.allocation, chosen.grid, chosen.vocab_loss)
    texts = {domain.name: domain for domain in domains}
    job = Job(base, texts, sparsity, seed, dtype, device, batch_tokens, vocabulary_texts or {})
    for step in steps:
        step.check(job)
    return Plan(job, chosen, tuple(steps), tuple(step.cost(job) for step in steps))


def describe(step: Step) -> str:
    """A step in words."""
    if isinstance(step, Walk):
        fit = ", the kept weights fitted to the dense model" if step.fit else ""
        grid = f", rounded to the grid of {step.grid}" if step.grid else ""
        return f"walk the blocks: masks by {step.score}{fit}{grid}"
    if isinstance(step, Distil):
        return "distil: the masks moved by gradients of the whole model"
    if isinstance(step, ChooseVocabulary):
        return f"vocabulary: the fewest tokens that lose {step.loss:.1%} of the domain's bits a byte or less"
    if isinstance(step, Round):
        return f"round the kept weights to the grid of {step.grid}"
    return f"{step.name}: where the sparsity goes, by gradients of the whole model"


def _minutes(minutes: float) -> str:
    return "under a minute" if minutes < 1 else f"{minutes:.0f} minutes"
