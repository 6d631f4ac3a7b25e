"""`--effort`: which method and allocation a person gets who names neither.

The choice hangs on the model, the sparsity and this machine's memory, never on its speed (docs/results/methods.md has
the evidence). `quick` is Wanda, the paper's method, in minutes. `good` fits the kept weights as well and loses the
least of all that hold one block in memory. `best` spreads the sparsity and moves the mask by gradients of the whole
model, where it fits into memory; elsewhere, and for N:M, where a group leaves a mask little to move, it is `good`.
"""

import torch

from submodel.base.models import Base
from submodel.errors import unknown_name
from submodel.extract.recipe import Method
from submodel.prune.gradients import fits
from submodel.prune.learn.distil import bytes_beside
from submodel.prune.sparsity import RowSparsity, Sparsity

EFFORTS = ("quick", "good", "best")
DEFAULT = "good"


def method_for(effort: str, base: Base, sparsity: Sparsity, dtype: torch.dtype, device: str) -> Method:
    """The method that an effort stands for. Raises SubmodelError for a name that is not in EFFORTS."""
    if effort not in EFFORTS:
        raise unknown_name("effort", effort, EFFORTS)
    if effort == "quick":
        return Method("wanda")
    whole_model = isinstance(sparsity, RowSparsity) and fits(
        base, dtype, device, bytes_beside(dtype, new_weights=False)
    )
    if effort == "best" and whole_model:
        return Method("wanda+distil", allocation="marginal")
    return Method("wanda+reconstruct")
