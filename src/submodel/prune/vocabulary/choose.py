"""How many tokens: the fewest whose loss on held-out text is within a bound, of sizes a fifth apart."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base.tokenizer_model import TokenizerModel
from submodel.base.workers import Workers
from submodel.errors import SubmodelError
from submodel.prune.vocabulary.loss import Ladder, WindowLoss, outside, window_losses

SIZES_PER_DOUBLING = 4
MOST_OUTSIDE = 0.02  # of the held-out tokens; a size that spells more loses more than anyone asks for


@dataclass(frozen=True)
class Point:
    """One size of a curve.

    Attributes:
        tokens: that are kept.
        loss: bits a byte above those of all rows, as a fraction of them.
        error: its standard error, over windows.
        outside: the share of tokens that had to be spelled.
    """

    tokens: int
    loss: float
    error: float
    outside: float


@dataclass(frozen=True)
class Curve:
    """What sizes lose, the smallest first; the last one keeps every token."""

    points: tuple[Point, ...]

    def fewest(self, bound: float) -> Point:
        """The smallest size that, like all larger ones, loses no more than the bound; the largest if none does."""
        best = self.points[-1]
        for point in reversed(self.points):
            if point.loss > bound:
                break
            best = point
        return best

    def as_dicts(self) -> list[dict[str, Any]]:
        """For the manifest."""
        rounded = {"loss": 6, "error": 6, "outside": 6}
        return [
            {key: round(value, rounded[key]) if key in rounded else value for key, value in asdict(point).items()}
            for point in self.points
        ]


def check_bound(bound: float) -> None:
    """Raises SubmodelError unless it is a fraction of the bits a byte."""
    if not 0 < bound < 1:
        raise SubmodelError(
            f"--vocab-loss {bound:g}: give the part of its bits a byte that a domain's text may lose, such as 0.005"
        )


def ladder(order: np.ndarray, always: Iterable[int], rows: int, said_again: bool) -> Ladder:
    """The sizes that there are: each keeps what is always kept and the beginning of the order.

    Args:
        order: the other tokens, the one that stays longest first.
        always: tokens that are always kept.
        rows: of the head; those without a token are never kept.
        said_again: as of `Ladder`.
    """
    ranked = [*sorted(set(always)), *order.tolist()]
    rank = np.full(rows, rows + 1, dtype=np.int64)
    rank[ranked] = np.arange(len(ranked))
    least, total = len(ranked) - len(order), len(ranked)
    steps = int(SIZES_PER_DOUBLING * np.log2(total / least)) + 1
    sizes = {least, *(max(least, round(total / 2 ** (step / SIZES_PER_DOUBLING))) for step in range(steps))}
    return Ladder(rank, tuple(sorted(sizes)), said_again)


def worth_measuring(ladder: Ladder, windows: np.ndarray) -> Ladder:
    """The ladder without the sizes that have to spell too many tokens of held-out windows (windows, tokens)."""
    share = outside(windows, ladder)
    sizes = [size for size, part in zip(ladder.sizes, share, strict=True) if part <= MOST_OUTSIDE]
    return Ladder(ladder.rank, tuple(sizes or ladder.sizes[-1:]), ladder.said_again)


def measure(
    model: PreTrainedModel,
    windows: torch.Tensor,
    rules: TokenizerModel,
    ladders: Sequence[Ladder],
    progress: Callable[[int], Any],
) -> list[WindowLoss]:
    """`window_losses` of every window, int64 (windows, tokens), one a core."""

    def loss(ids: torch.Tensor) -> WindowLoss:
        result = window_losses(model, ids, rules, ladders)
        progress(len(ids))
        return result

    with Workers(str(model.device)) as workers:
        return workers.map(loss, windows)


def curve(ladder: Ladder, losses: Sequence[WindowLoss], place: int, said: int) -> Curve:
    """The curve of a ladder.

    Args:
        ladder: the sizes.
        losses: of every window.
        place: of the ladder among those that were measured together.
        said: how many tokens of a window are predicted.
    """
    full = np.array([loss.full for loss in losses])
    kept = np.array([loss.kept[place] for loss in losses])  # (windows, sizes)
    spelled = np.sum([loss.outside[place] for loss in losses], axis=0) / (said * len(losses))
    relative = kept.sum(axis=0) / full.sum() - 1
    rest = kept - np.outer(full, 1 + relative)  # of the ratio's linear part: its mean is 0
    error = np.sqrt((rest**2).sum(axis=0)) / full.sum() if len(losses) > 1 else np.zeros(len(relative))
    points = zip(ladder.sizes, relative, error, spelled, strict=True)
    return Curve(tuple(Point(int(n), float(r), float(e), float(s)) for n, r, e, s in points))
