"""The grids of values that packed formats can hold, for rounding with a matrix's inputs in view."""

import torch

from submodel.errors import unknown_name
from submodel.prune.rounding import Grid
from submodel.runtime.packed.formats import FORMATS, GRIDS, GROUP, scales_of


def grid_of(name: str) -> Grid:
    """The values that a format can hold. Raises SubmodelError for a name that is not in GRIDS."""
    if name not in GRIDS:
        raise unknown_name("grid", name, GRIDS)

    def scales(rows: torch.Tensor) -> torch.Tensor:
        return scales_of(rows, name).float().repeat_interleave(GROUP, 1)[:, : rows.shape[1]]

    return Grid(FORMATS[name].bits, scales)
