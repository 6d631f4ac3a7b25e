"""Wanda: weights times the norm of their input feature (Sun et al. 2023, https://arxiv.org/abs/2306.11695).

With calibration on one domain's text this is the method of the paper that submodel starts from.
"""

import torch

from submodel.prune.scores.score import Score, by_score
from submodel.prune.statistics import Gram, SquaredNorm


def score(weight: torch.Tensor, inputs: SquaredNorm | Gram) -> torch.Tensor:
    """|W_ij| * sqrt(sum over tokens of x_j^2)."""
    return weight.abs() * inputs.sum_squares.to(weight.device, torch.float32).sqrt()


WANDA = Score("smallest |W_ij| * ||x_j|| of every row (arXiv 2306.11695)", SquaredNorm, by_score(score))
