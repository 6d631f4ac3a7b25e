"""What a pruning method is: the statistic it needs of a matrix's inputs, and how it decides which weights stay."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from submodel.prune.dense_target import Toward
from submodel.prune.sparsity import Pattern, keep_mask
from submodel.walk import Make, Pruned

Decide = Callable[[torch.Tensor, Any, Pattern], torch.Tensor | Pruned]
"""Some rows of a weight in float32 (rows, cols), what `prepare` made, the pattern -> bool mask, True = kept; a method
that rewrites the kept weights gives Pruned with them in float32."""


@dataclass(frozen=True)
class Method:
    """A pruning method.

    Attributes:
        about: one line with the source.
        statistic: makes an empty statistic of an input (see `statistics`), or None when only weights matter.
        decide: rows -> mask, or mask and new weights; rows are decided on their own, so a matrix may come in parts.
        prepare: whole weight as stored and the statistic of its inputs -> what `decide` gets; called once a matrix.
        openings: one-token samples that it wants beside the text (see `calibration.with_openings`).
        distilled: the mask is moved afterwards, in the whole model (see `distil`).
        refitted: the kept weights are fitted (see `reconstruct`): in the same walk, or after `distilled` in another.
        fitted_first: they are fitted before `distilled`, on text of their own.
    """

    about: str
    statistic: Make | None
    decide: Decide
    prepare: Callable[[torch.Tensor, Any], Any] = lambda weight, inputs: inputs
    openings: int = 0
    distilled: bool = False
    refitted: bool = False
    fitted_first: bool = False

    @property
    def observes(self) -> bool:
        """It looks at the inputs of matrices."""
        return self.statistic is not None or self.refitted

    @property
    def fits(self) -> bool:
        """The walk that decides the mask fits the kept weights as well."""
        return self.refitted and (self.fitted_first or not self.distilled)

    @property
    def toward(self) -> bool:
        """It decides toward the dense model: `decide` gets `toward.Aimed` of what `prepare` made."""
        return self.statistic is Toward

    @property
    def paired(self) -> bool:
        """The dense model goes along in the walk that decides the mask; its statistics are `Toward`."""
        return self.toward or self.fits

    @property
    def fits_at_last(self) -> bool:
        """A walk of its own fits the kept weights in the end."""
        return self.refitted and not self.fits

    def prune(self, rows: torch.Tensor, prepared: Any, pattern: Pattern) -> Pruned:
        """`decide`, with a bare mask made Pruned."""
        found = self.decide(rows, prepared, pattern)
        return found if isinstance(found, Pruned) else Pruned(found)


def by_score(score: Callable[[torch.Tensor, Any], torch.Tensor]) -> Decide:
    """Keep the weights of the highest score: weight (rows, cols) and statistic -> scores, float32, not negative."""
    return lambda weight, inputs, pattern: keep_mask(score(weight, inputs), pattern)
