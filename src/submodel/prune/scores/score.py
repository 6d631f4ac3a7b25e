"""What a score is: the statistic it needs of a matrix's inputs, and how it decides which weights stay."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from submodel.prune.dense_target import DenseTarget
from submodel.prune.sparsity import Sparsity, keep_mask
from submodel.walk import Make, Pruned


@dataclass(frozen=True)
class Part:
    """Which rows of which matrix are decided on, and the seed of whatever chance enters.

    Attributes:
        matrix: its name; experts that share one parameter have their number after it, `name[3]`.
        first: the index of the first of the rows.
        seed: of the extraction.
    """

    matrix: str
    first: int = 0
    seed: int = 0

    def generator(self) -> torch.Generator:
        """Random numbers of these rows' own: the same in every run, other ones for other rows."""
        digest = sha256(f"{self.seed} {self.matrix} {self.first}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


Decide = Callable[[torch.Tensor, Any, Sparsity, Part], torch.Tensor | Pruned]
"""Some rows of a weight in float32 (rows, cols), what `prepare` made, the sparsity of the rows, which rows they are ->
bool mask (rows, cols), True = kept; a method that rewrites the kept weights gives Pruned with them in float32."""


@dataclass(frozen=True)
class Score:
    """A way to decide which weights of a matrix stay, one block in memory.

    Attributes:
        about: one line with the source.
        statistic: makes an empty statistic of an input (see `statistics`), or None when only weights matter.
        decide: rows -> mask, or mask and new weights; rows are decided independently, so a matrix may come in parts.
            Every number that is a module constant where `decide` is defined belongs to the recipe.
        prepare: whole weight as stored and the statistic of its inputs -> what `decide` gets; called once a matrix.
        openings: one-token samples that it wants beside the text (see `calibration.with_openings`).
    """

    about: str
    statistic: Make | None
    decide: Decide
    prepare: Callable[[torch.Tensor, Any], Any] = lambda weight, inputs: inputs
    openings: int = 0

    @property
    def uses_dense_target(self) -> bool:
        """Whether it decides toward the dense model's output: `decide` gets a `Target` of what `prepare` made."""
        return self.statistic is DenseTarget

    def prune(self, rows: torch.Tensor, prepared: Any, sparsity: Sparsity, part: Part) -> Pruned:
        """`decide`, with a bare mask made Pruned."""
        result = self.decide(rows, prepared, sparsity, part)
        return result if isinstance(result, Pruned) else Pruned(result)


def by_score(score: Callable[[torch.Tensor, Any], torch.Tensor]) -> Decide:
    """Keep the weights of the highest score: weight (rows, cols) and statistic -> scores, float32, not negative."""

    def decide(weight: torch.Tensor, inputs: Any, sparsity: Sparsity, part: Part) -> torch.Tensor:
        return keep_mask(score(weight, inputs), sparsity)

    decide.__module__ = score.__module__  # whose constants belong to the recipe
    return decide


def by_part_score(score: Callable[[torch.Tensor, Any, Part], torch.Tensor]) -> Decide:
    """As `by_score`, for a score that also depends on which rows it is asked for."""

    def decide(weight: torch.Tensor, inputs: Any, sparsity: Sparsity, part: Part) -> torch.Tensor:
        return keep_mask(score(weight, inputs, part), sparsity)

    decide.__module__ = score.__module__
    return decide
