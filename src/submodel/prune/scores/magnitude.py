"""Magnitude pruning: the smallest weights of every output row go. The control that no calibration enters."""

import torch

from submodel.prune.scores.score import Score, by_score


def score(weight: torch.Tensor, _: None) -> torch.Tensor:
    """|W_ij|."""
    return weight.abs()


MAGNITUDE = Score("smallest |W_ij| of every row", None, by_score(score))
