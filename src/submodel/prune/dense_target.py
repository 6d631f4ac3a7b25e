"""The dense target: what must be known of a matrix's inputs so that its output can come near the dense model's.

With x the input of a token in the pruned model and x' the one it has in the dense model, a matrix W is to put out

    t = W x'  +  l,

l being what the pruned model's residual stream lacks, where W adds its output to that. A fit on x, and a choice of what
stays, need of this the products x x^T and (t - W x) x^T, both summed over the tokens; none counts for more than
ClippedGram lets it. Of one-token samples t is W x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from submodel.base.arithmetic import linear
from submodel.prune.statistics import ClippedGram, Gram, clipping


class DenseTarget(ClippedGram):
    """A clipped Gram matrix of the inputs in the pruned model, and the gap to the target.

    Attributes:
        cross: (cols, cols), sum over tokens of (x' - x) x^T; W times it is the gap; or None.
        gap: (rows, cols), sum over tokens of (t - W x) x^T; of one matrix with fewer rows than columns, or one that
            writes to the residual stream.
    """

    def __init__(self, cols: int, device: torch.device):
        super().__init__(cols, device)
        self.cross: torch.Tensor | None = None
        self.gap: torch.Tensor | None = None

    def update_paired(
        self, inputs: torch.Tensor, dense: torch.Tensor, weight: torch.Tensor | None, lack: torch.Tensor | None
    ) -> None:
        """Take in one batch of a stage (see `stream.paired`), (tokens, cols) of both models."""
        scale = clipping(inputs)
        self._add(inputs, scale)
        values, behind = inputs * scale, (dense.float() - inputs).mul_(scale)  # float32
        if weight is None or (lack is None and weight.shape[0] > weight.shape[1]):
            self.cross = _plus(self.cross, behind.T @ values)
        else:
            gap = linear(behind.to(weight.dtype), weight).float()
            if lack is not None:
                gap.addcmul_(lack, scale)
            self.gap = _plus(self.gap, gap.T @ values)

    def merge(self, other: Gram) -> None:
        """Add what another one has seen."""
        super().merge(other)
        assert isinstance(other, DenseTarget)
        self.cross, self.gap = _plus(self.cross, other.cross), _plus(self.gap, other.gap)

    def clear(self) -> None:
        """Forget all that was seen."""
        super().clear()
        self.cross = self.gap = None


@dataclass(frozen=True)
class Target:
    """What some rows are decided on.

    Attributes:
        inputs: the statistic.
        gap: (rows, cols), sum over tokens of (t - W x) x^T; None where t is W x.
    """

    inputs: DenseTarget
    gap: torch.Tensor | None


def gap_of_rows(
    inputs: DenseTarget, device: torch.device
) -> tuple[Callable[..., torch.Tensor | None], list[torch.Tensor]]:
    """The gap between the target and W x, of some rows of a weight.

    Returns:
        Rows in float32 (rows, cols), and their part of the following -> `Target.gap`; what has a part for every row.
    """
    if inputs.gap is not None:
        return lambda rows, gap: gap, [inputs.gap.to(device)]
    if inputs.cross is None:
        return lambda rows: None, []
    cross = inputs.cross.to(device)
    return lambda rows: rows @ cross, []


def _plus(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    if total is None or more is None:
        return more if total is None else total
    return total.add_(more)
