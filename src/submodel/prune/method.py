"""What a pruning method is: the statistic it needs of a matrix's inputs, and a score for every weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from submodel.stream import Make


@dataclass(frozen=True)
class Method:
    """A pruning method that leaves the surviving weights unchanged.

    Attributes:
        about: one line with the source.
        statistic: makes an empty statistic of an input (see `statistics`), or None when only weights matter.
        score: weight (rows, cols) in float32 and the statistic of its inputs -> scores, float32 (rows, cols).
    """

    about: str
    statistic: Make | None
    score: Callable[[torch.Tensor, Any], torch.Tensor]
