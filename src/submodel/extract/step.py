"""What a step of an extraction is: it declares what decides its result, what it reads and costs, and runs.

A step runs on all domains at once, so that a block is read once for all of them. What one step leaves of a domain, its
`State`, is where the next begins.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch

from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.calibration.vocabulary_text import VocabularyText
from submodel.prune.gradients import DenseModel
from submodel.prune.mask import Masks
from submodel.prune.sparsity import Sparsity
from submodel.prune.vocabulary import Vocabulary


@dataclass(frozen=True)
class State:
    """What the steps so far have made of one domain's sub-model.

    Attributes:
        sparsities: matrix -> what is removed of it; None while every matrix loses what was asked of the whole.
        masks: matrix -> its mask, with new values where a step has rewritten the kept weights; None before the first.
        vocabulary: the tokens that are kept; None where that is all of them.
        facts: what the manifest says of it beside the recipe.
    """

    sparsities: Mapping[str, Sparsity] | None = None
    masks: Masks | None = None
    vocabulary: Vocabulary | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a step takes.

    Attributes:
        block_tokens: runs of a block, counted in tokens times blocks: what progress is measured in.
        operations: floating-point operations, roughly.
        memory_bytes: at once, beside the interpreter and its libraries.
    """

    block_tokens: int
    operations: float
    memory_bytes: int


@dataclass(frozen=True)
class Excerpt:
    """Which of a domain's samples a step reads: from the beginning, or what another excerpt leaves.

    Attributes:
        tokens: at most about so many; all if None.
        half: of the first half of the samples only.
        rest: the samples that the same excerpt without `rest` leaves.
    """

    tokens: int | None = None
    half: bool = False
    rest: bool = False

    def of(self, text: Samples) -> Samples:
        """The samples of a text that are read."""
        part = text.take(slice(len(text.ids) // 2)) if self.half else text
        if self.tokens is not None:
            part = part.first(self.tokens)
        return text.take(slice(len(part.ids), None)) if self.rest else part

    def as_dict(self) -> dict[str, Any]:
        """For the manifest; what says nothing is left out."""
        return {name: value for name, value in vars(self).items() if value not in (None, False)}


@dataclass(frozen=True)
class Job:
    """What all steps of an extraction share.

    Attributes:
        base: the base model.
        texts: domain -> its calibration text.
        sparsity: what is removed of the whole.
        seed: of whatever chance enters a score.
        dtype, device: of the arithmetic.
        batch_tokens: about how many tokens run at once in one worker (a core).
        vocabulary_texts: domain -> what says which tokens it needs, where that is to be chosen.
    """

    base: Base
    texts: Mapping[str, Samples]
    sparsity: Sparsity
    seed: int
    dtype: torch.dtype
    device: str
    batch_tokens: int
    vocabulary_texts: Mapping[str, VocabularyText] = field(default_factory=dict)

    @property
    def blocks(self) -> int:
        """How many blocks the base has."""
        return self.base.config.get_text_config().num_hidden_layers

    @cached_property
    def dense_model(self) -> DenseModel:
        """The whole dense model, opened by the first step that takes gradients and kept for the others."""
        return DenseModel(self.base, self.dtype, self.device)


Progress = Callable[[int], Any]
"""Told how many of a step's `block_tokens` are done, altogether."""


class Step(Protocol):
    """One step. It is a frozen value: two equal steps do the same."""

    @property
    def name(self) -> str:
        """One word, for messages and the folder of its work."""
        ...

    @property
    def reads(self) -> Excerpt | None:
        """Which part of each domain's text it reads; None if none."""
        ...

    def key(self) -> dict[str, Any]:
        """Everything that decides its result beside the job, the text that it reads and the steps before it.

        Constants are included, so that a changed one is never taken for the old result.
        """
        ...

    def check(self, job: Job) -> None:
        """Raises SubmodelError when it cannot run: not this sparsity, too little text, too little memory."""
        ...

    def cost(self, job: Job) -> Cost:
        """What it will take for all domains of the job."""
        ...

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        """Make the next state of every domain.

        `folder` is its own: what is done is kept there, and gone on from when the same step was killed.
        """
        ...


def constants(*modules: ModuleType) -> dict[str, int | float]:
    """The numbers that modules define as constants, by module and name: those of a step's key.

    A module's numbers of bytes or rows at a time are among them; a changed one makes a step run again, which is safe.
    """
    return {
        f"{module.__name__.rpartition('.')[2]}.{name.strip('_').lower()}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and type(value) in (int, float)
    }
