"""What an allocation is: a rule for how many weights each row loses, by gradients of the whole model on a text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from submodel.calibration import Samples
from submodel.prune.gradients import DenseModel
from submodel.prune.sparsity import RowSparsity

Counts = Callable[[DenseModel, Samples, RowSparsity, Path, Callable[[int], Any]], Mapping[str, np.ndarray]]
"""The dense model, a domain's text, the sparsity of the whole, a folder for what is done, and what is told how many
more tokens are done -> matrix -> int64 (rows,), how many weights each of its rows loses. Matrices that are left out
lose as much of every row. Every number that is a module constant where it is defined belongs to the recipe."""


@dataclass(frozen=True)
class Allocation:
    """A rule for where the sparsity goes; the weights removed of all rows together stay as many as without it.

    Attributes:
        about: one line with the source.
        counts: the rule itself. The folder is its own: a rule that was interrupted goes on from what it kept there.
        tokens: how many tokens of a domain's text it takes gradients of.
        weights_beside: how many copies of a prunable weight it has in memory beside the dense one.
    """

    about: str
    counts: Counts
    tokens: Callable[[Samples], int]
    weights_beside: int = 0
