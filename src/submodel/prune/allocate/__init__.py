"""Allocations: where the sparsity goes, one rule a file."""

from submodel.prune.allocate.allocation import Allocation
from submodel.prune.allocate.marginal import MARGINAL
from submodel.prune.allocate.rows import ROWS

ALLOCATIONS: dict[str, Allocation | None] = {"uniform": None, "rows": ROWS, "marginal": MARGINAL}
"""Name -> rule; with `uniform` every row loses as much, which needs none."""

__all__ = ["ALLOCATIONS", "Allocation"]
