"""Walk a model block by block from disk: load, run, observe inputs, prune, run again, free."""

from submodel.walk.block import Pruned
from submodel.walk.observe import Make, Statistic
from submodel.walk.rehearse import rehearse
from submodel.walk.walk import Afterwards, Decide, walk

__all__ = ["Afterwards", "Decide", "Make", "Pruned", "Statistic", "rehearse", "walk"]
