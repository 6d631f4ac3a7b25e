"""Walk a model block by block from disk: load, run, observe inputs, prune, run again, free."""

from submodel.stream.block import Pruned
from submodel.stream.observe import Make, Statistic
from submodel.stream.walk import Afterwards, Decide, walk

__all__ = ["Afterwards", "Decide", "Make", "Pruned", "Statistic", "walk"]
