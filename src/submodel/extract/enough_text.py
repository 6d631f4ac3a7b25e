"""How much calibration text is enough: double it until the masks that its two halves decide are nearly the same.

A dense pass gathers the statistics of even and odd samples apart. If n samples leave every norm an error of standard
deviation s, each half's is sqrt(2) s and the halves' difference 2 s: weights change sides in proportion to it, so the
halves' masks differ by twice as much as the mask of all n samples differs from that of unlimited text of the same kind.

It sees the inputs of the dense model under the uniform pattern. The masks of a walk lie farther from their limit, since
each block's inputs come from masks that have an error of their own: a quarter is added for that (measured on one model,
four domains: dev/notebook/calibration.md). It does not speak of text of another kind, and is too low where the halves
are not independent, as pieces of one long document are.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from submodel.base.arithmetic import default_dtype
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError, unknown_name
from submodel.prune.scores import SCORES, Score
from submodel.prune.scores.score import Part
from submodel.prune.sparsity import RowSparsity, Sparsity
from submodel.prune.statistics import SquaredNorm
from submodel.walk import Pruned, Statistic, walk

TOLERANCE = 0.02
_HANDED_ON = 1.25  # a walk's distance, in units of the dense model's
_EVERY = 13  # rows are compared one in so many; odd, so that no part of a head is left out


@dataclass(frozen=True)
class TextCurve:
    """The curve of one domain.

    Attributes:
        tolerance: the distance asked for.
        samples, tokens: how much text, at each doubling.
        distances: Jaccard distance, estimated, of that text's masks to those of unlimited text.
    """

    tolerance: float
    samples: tuple[int, ...]
    tokens: tuple[int, ...]
    distances: tuple[float, ...]

    @property
    def is_settled(self) -> bool:
        """Whether the last distance is within the tolerance."""
        return self.distances[-1] <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "tolerance": self.tolerance,
            "tokens": list(self.tokens),
            "distances": [round(distance, 5) for distance in self.distances],
        }


def distance_to_limit(halves: float) -> float:
    """Jaccard distance of two halves' masks -> expected distance of the whole's mask to that of unlimited text.

    Of masks that keep k weights each and share k - x of them the distance is 2x / (k + x); half of x is expected.
    """
    differing = halves / (2 - halves) / 2
    return 2 * differing / (1 + differing)


def enough_text(
    base: Base,
    domains: Sequence[Samples],
    *,
    method: str = "wanda",
    sparsity: Sparsity | None = None,
    tolerance: float = TOLERANCE,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    batch_tokens: int = 512,
    progress: Callable[[str, int, int], Any] = lambda what, done, total: None,
) -> dict[str, TextCurve]:
    """Run the first 2, 4, 8, ... samples of every domain through the dense model until their masks have settled.

    Args:
        base: the base model.
        domains: as many samples as may be used at most.
        method: a key of SCORES whose statistic are norms.
        sparsity: what to remove; half of every row if None.
        tolerance: stop where the distance to the limit is expected to be no larger.
        dtype, device, batch_tokens: as `extract` takes them.
        progress: told what is done, tokens done and in all of this doubling.

    Returns:
        Domain -> its curve; one that never settles ends with all its samples, if even. Each sample is run once.

    Raises:
        SubmodelError: a method that needs more than norms, a tolerance outside 0..1, or fewer than two
            samples.
    """
    if method.partition("+")[0] not in SCORES:
        raise unknown_name("method", method, SCORES)
    by_norms = [name for name, score in SCORES.items() if score.statistic is SquaredNorm]
    if method not in by_norms:
        raise SubmodelError(
            f"--tokens auto with {method}: only masks of norms are measured ({', '.join(by_norms)}): give --tokens N"
        )
    if not 0 < tolerance < 1:
        raise SubmodelError(f"tolerance {tolerance:g}: give a Jaccard distance between 0 and 1, such as {TOLERANCE}")
    for domain in domains:
        if len(domain.ids) < 2:
            raise SubmodelError(
                f"--tokens auto: {len(domain.ids)} sample of {domain.name}: give more --samples, a lower --seq-len"
            )
    domains = [domain.take(slice(len(domain.ids) // 2 * 2)) for domain in domains]
    halves = {domain.name: _Halves(SCORES[method], sparsity or RowSparsity(0.5)) for domain in domains}
    curves = {domain.name: TextCurve(tolerance, (), (), ()) for domain in domains}
    unsettled, start, stop = list(domains), 0, 2
    while unsettled:
        parts = {
            f"{domain.name} {half}": (halves[domain.name], half, domain.take(slice(start + half, stop, 2)))
            for domain in unsettled
            for half in (0, 1)
        }

        def compare(part: str, name: str, weight: torch.Tensor, statistics: Any, parts: Any = parts) -> Pruned:
            seen, half, _ = parts[part]
            seen.compare(half, name, weight, statistics)
            return Pruned(torch.ones(1, dtype=torch.bool).expand(weight.shape))

        what = f"settling {', '.join(domain.name for domain in unsettled)} ({stop} samples)"
        with tempfile.TemporaryDirectory(prefix="submodel-") as folder:
            walk(
                base,
                [replace(samples, name=part) for part, (_, _, samples) in parts.items()],
                make=SquaredNorm,
                decide=compare,
                keep=lambda block, pruned: None,
                work=Path(folder),
                dtype=dtype or default_dtype(device),
                device=device,
                batch_tokens=batch_tokens,
                progress=lambda done, total, what=what: progress(what, done, total),
            )
        for domain in unsettled:
            curve, count = curves[domain.name], min(stop, len(domain.ids))
            curves[domain.name] = TextCurve(
                tolerance,
                (*curve.samples, count),
                (*curve.tokens, len(domain.take(slice(count)).tokens)),
                (*curve.distances, _HANDED_ON * distance_to_limit(halves[domain.name].distance)),
            )
        unsettled = [d for d in unsettled if not curves[d.name].is_settled and len(d.ids) > stop]
        start, stop = stop, 2 * stop
    return curves


class _Halves:
    """The statistics of a domain's two halves as they grow, and how far apart the masks are that they decide."""

    def __init__(self, score: Score, sparsity: Sparsity):
        self._score = score
        self._sparsity = sparsity
        self._norms: dict[tuple[str, int, int], SquaredNorm] = {}
        self._counts: dict[str, tuple[int, int]] = {}

    @property
    def distance(self) -> float:
        """Jaccard distance of the kept weights of the rows compared, all matrices together."""
        both = sum(both for both, _ in self._counts.values())
        either = sum(either for _, either in self._counts.values())
        return 1 - both / either if either else 0.0

    def compare(self, half: int, name: str, weight: torch.Tensor, statistics: list[Statistic | None] | None) -> None:
        """Take in what one half has seen of a matrix, or of the experts in one; the second half compares."""
        matrices = weight if weight.dim() == 3 else weight[None]
        both = either = 0
        for index, (matrix, seen) in enumerate(zip(matrices, statistics or [], strict=True)):
            if isinstance(seen, SquaredNorm):
                # a copy: matrices of one input hold the same object
                empty = SquaredNorm(matrix.shape[1], seen.sum_squares.device)
                self._norms.setdefault((name, index, half), empty).merge(seen)
            if half == 1 and all((name, index, h) in self._norms for h in (0, 1)):
                a, b = (self._mask(name, matrix, self._norms[name, index, h]) for h in (0, 1))
                both += int((a & b).sum())
                either += int((a | b).sum())
        if half == 1:
            self._counts[name] = both, either

    def _mask(self, name: str, matrix: torch.Tensor, norms: SquaredNorm) -> torch.Tensor:
        prepared = self._score.prepare(matrix, norms)
        return self._score.prune(matrix[::_EVERY].float(), prepared, self._sparsity, Part(name)).keep
