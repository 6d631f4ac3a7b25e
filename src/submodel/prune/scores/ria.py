"""RIA: a weight relative to its row and to its column, times its input's norm (Zhang et al., ICLR 2024).

https://openreview.net/forum?id=Tr0lPx9woF, https://github.com/biomedical-cybernetics/Relative-importance-and-activation-pruning.
Weights are compared within an output row, as the store's exact rows need (the authors' `--per_outneuron`); the
authors' default compares them over the whole matrix.
"""

import torch

from submodel.prune.scores.score import Score, by_score
from submodel.prune.statistics import Gram, SquaredNorm

_POWER = 0.5  # the authors' a
_CHUNK_ROWS = 256


def prepare(weight: torch.Tensor, inputs: SquaredNorm | Gram) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of |W| of every column, and norm of every input to the power of a: float32 (cols,) each."""
    columns = sum((part.float().abs().sum(0) for part in weight.split(_CHUNK_ROWS)), torch.zeros(weight.shape[1]))
    return columns, inputs.sum_squares.to(weight.device, torch.float32).sqrt() ** _POWER


def score(weight: torch.Tensor, prepared: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||x_j||^a."""
    columns, norms = prepared
    size = weight.abs()
    # a row or column of zeros stays of zeros
    tiny = torch.finfo(torch.float32).tiny
    return (size / columns.clamp(min=tiny) + size / size.sum(1, keepdim=True).clamp(min=tiny)) * norms


RIA = Score("relative importance and activation, per row (ICLR 2024)", SquaredNorm, by_score(score), prepare)
