"""Round kept weights to the grid of a packed format, each rounding made up for by the others.

The nearest point of the grid is the best for a weight by itself. A row's output, though, suffers from all its errors
together, and inputs are correlated: weights that are rounded the other way can cancel what their neighbours lose. For
each row with kept weights w, the points q of the grid are looked for that make

    ||(w - q) X||^2  +  ridge * sum_j (w_j - q_j)^2 G_jj        with G = X X^T

small. From the nearest points on, one weight after another goes to the point that is best while the others stay; the
sum above never grows. This is QuantEase (arXiv 2309.01885) on the weights that a mask has left; GPTQ (arXiv 2210.17323)
looks at each weight once. The ridge is the one of `refit`, for its reason.

The grid is that of the base's weight (docs/reference/format.md, "Packed matrices"), so what is packed in that format
later has these very values. X is what the matrix gets in the sub-model before any of it is rounded, so masks and fits
are those of the same command without a grid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from submodel.prune.refit import ridge_of
from submodel.prune.statistics import Gram

_SWEEPS = 3
_BLOCK = 64  # columns whose effect on each other is kept up at once; on the others after them


@dataclass(frozen=True)
class Grid:
    """The values that a packed format can hold.

    Attributes:
        bits: of one value: whole numbers of a scale, from -2^(bits-1) to 2^(bits-1) - 1 of them.
        scales: rows of the base's weight as stored (rows, cols) -> the scale of each of its weights (rows, cols).
    """

    bits: int
    scales: Callable[[torch.Tensor], torch.Tensor]


def descend(
    weight: torch.Tensor,
    scales: torch.Tensor,
    half: int,
    gram: torch.Tensor,
    *,
    ridge: float,
    sweeps: int = _SWEEPS,
) -> torch.Tensor:
    """Round some rows.

    Args:
        weight: float (rows, cols), what is rounded.
        scales: (rows, cols), the grid: whole numbers of these, from -half to half - 1 of them; 0 where dropped.
        half: see there.
        gram: (cols, cols) of the inputs, in the dtype of `weight`.
        ridge: what a rounding costs by itself, see above.
        sweeps: how often every weight is looked at, after the nearest points; fewer if none moves any more.

    Returns:
        (rows, cols), on the grid.
    """
    target, step = weight.T.contiguous(), scales.T.contiguous()  # a column lies in one piece
    up = torch.where(step == 0, 0, 1 / step)
    rounded = (target * up).round_().clamp_(-half, half - 1).mul_(step)
    error = torch.where(step == 0, 0, rounded - target)
    diagonal = (1 + ridge) * gram.diagonal()
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0)  # a feature that no token has stays at its nearest point
    for _ in range(sweeps):
        moved = False
        for start in range(0, len(target), _BLOCK):
            here = slice(start, start + _BLOCK)
            pull = gram[here] @ error + error[here] * (ridge * gram.diagonal()[here, None])
            within = gram[here, here] + torch.diag(ridge * gram.diagonal()[here])
            for j in range(len(pull)):
                at = start + j
                best = torch.addcmul(rounded[at], pull[j], inverse[at], value=-1)
                best.mul_(up[at]).round_().clamp_(-half, half - 1).mul_(step[at])
                change = best - rounded[at]
                rounded[at] = best
                error[at] += change
                pull[j + 1 :].addr_(within[j, j + 1 :], change)
                moved = moved or bool(change.any())
        if not moved:
            break
    return rounded.T.contiguous()


def rounder(weight: torch.Tensor, inputs: Gram, grid: Grid) -> Callable[..., torch.Tensor]:
    """`descend` for the rows of a weight (rows, cols) as stored, by what was seen of its inputs.

    Returns what takes some of the rows as stored, their mask and what is to be rounded, and gives it on the grid.
    """
    gram, ridge = inputs.products.to(weight.device), ridge_of(weight, inputs)

    def rounded(rows: torch.Tensor, keep: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        scales = grid.scales(rows).masked_fill(~keep, 0)
        return descend(values.float(), scales, 1 << grid.bits - 1, gram, ridge=ridge)

    return rounded
