"""Scores: how a matrix's weights are chosen, one method a file."""

from submodel.prune.scores.exchange import PURSUIT, SWAPS
from submodel.prune.scores.magnitude import MAGNITUDE
from submodel.prune.scores.ria import RIA
from submodel.prune.scores.score import Score
from submodel.prune.scores.sparsegpt import SPARSEGPT
from submodel.prune.scores.wanda import WANDA

SCORES: dict[str, Score] = {
    "magnitude": MAGNITUDE,
    "wanda": WANDA,
    "ria": RIA,
    "swaps": SWAPS,
    "pursuit": PURSUIT,
    "sparsegpt": SPARSEGPT,
}

__all__ = ["SCORES", "Score"]
