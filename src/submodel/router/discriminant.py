"""A linear discriminant in closed form over sufficient statistics: counts, means and scatters of vectors.

Each label has one mean for each kind of text it was shown; all kinds share one covariance, shrunk towards a multiple
of the identity (Friedman 1989, "Regularized Discriminant Analysis", https://doi.org/10.1080/01621459.1989.10478752,
with lambda = 1). A label's density is the sum over its kinds. Since real vectors are not normal, the log densities
are divided by a temperature, which is set by halves of the data that score each other. Statistics add up, so labels
come and go without a new look at texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

SHRINKAGE = 0.1
_TEMPERATURES = np.geomspace(1, 200, 60)

Groups = Mapping[str | None, Mapping[str, np.ndarray]]
"""Label -> kind of text -> vectors (texts, size). The label None is what belongs to nobody."""


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of some vectors: `count`, `mean` (size,), `scatter` (size, size) about the mean."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @staticmethod
    def of(vectors: np.ndarray) -> "Moments":
        """Of vectors (count, size); at least one."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - mean
        return Moments(len(vectors), mean, centred.T @ centred)

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)


Key = tuple[str | None, str]
"""Label and kind."""


@dataclass(frozen=True)
class Discriminant:
    """The fitted discriminant.

    Attributes:
        keys: one a mean.
        means: whitened, (keys, size).
        whiten: (size, size): maps a vector to where the shared covariance is the identity.
        temperature: divides log densities.
    """

    keys: tuple[Key, ...]
    means: np.ndarray
    whiten: np.ndarray
    temperature: float = 1.0

    @property
    def labels(self) -> list[str | None]:
        return list(dict.fromkeys(label for label, _ in self.keys))

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances (vectors, keys)."""
        white = vectors @ self.whiten.T
        squares = (white**2).sum(1)[:, None] - 2 * white @ self.means.T + (self.means**2).sum(1)
        return np.maximum(squares, 0)

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """(vectors, labels), every label as likely as the others beforehand."""
        logs = self._log_densities(vectors) / self.temperature
        powers = np.exp(logs - logs.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def difference(self, states: np.ndarray, vector: np.ndarray, label: str | None, other: str | None) -> np.ndarray:
        """By state (states,), what the nearest mean of one label gains over the other's nearest, seen from `vector`.

        Both densities are those of one covariance, so their difference is linear in the states that make a vector.
        """
        distances = self.distances(vector)[0]
        a, b = (
            self.means[min((d, at) for at, d in enumerate(distances) if self.keys[at][0] == side)[1]]
            for side in (label, other)
        )
        return (states @ self.whiten.T - (a + b) / 2) @ (a - b)

    def _log_densities(self, vectors: np.ndarray) -> np.ndarray:
        logs = -0.5 * self.distances(vectors)
        of_label = [[at for at, (label, _) in enumerate(self.keys) if label == one] for one in self.labels]
        return np.stack([np.logaddexp.reduce(logs[:, at], axis=1) - np.log(len(at)) for at in of_label], axis=1)


def fit(groups: Groups) -> Discriminant:
    """Fit to vectors, and set the temperature by halves that score each other."""
    halves: list[dict[Key, np.ndarray]] = [{}, {}]
    for label, kinds in groups.items():
        for kind, vectors in kinds.items():
            if len(vectors) < 4:
                continue
            for half in (0, 1):
                halves[half][label, kind] = np.asarray(vectors[half::2], dtype=np.float64)
    moments = [{key: Moments.of(vectors) for key, vectors in half.items()} for half in halves]
    all_moments = {key: moments[0][key].merged(moments[1][key]) for key in moments[0]}
    scored = [(from_moments(moments[1 - half]), halves[half]) for half in (0, 1)]
    fitted = from_moments(all_moments)
    return replace(fitted, temperature=_temperature(scored)) if len(fitted.labels) > 1 else fitted


def from_moments(moments: Mapping[Key, Moments], shrinkage: float = SHRINKAGE) -> Discriminant:
    """The discriminant of these statistics, with temperature 1."""
    keys = tuple(moments)
    size = len(moments[keys[0]].mean)
    count = sum(m.count for m in moments.values())
    within = sum((m.scatter for m in moments.values()), np.zeros((size, size))) / max(1, count - len(keys))
    whiten = _whitening(within, shrinkage)
    means = np.stack([moments[key].mean for key in keys]) @ whiten.T
    return Discriminant(keys, means, whiten)


def _whitening(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    size = len(covariance)
    level = np.trace(covariance) / size or 1.0
    shrunk = (1 - shrinkage) * covariance + shrinkage * level * np.eye(size)
    return np.linalg.inv(np.linalg.cholesky(shrunk))


def _temperature(scored: list[tuple[Discriminant, dict[Key, np.ndarray]]]) -> float:
    """The one under which the held-out halves are likeliest, every label counting alike."""
    losses = np.zeros(len(_TEMPERATURES))
    for model, half in scored:
        labels = model.labels
        for (label, _), vectors in half.items():
            logs = model._log_densities(vectors)
            right = logs[:, labels.index(label)]
            for at, temperature in enumerate(_TEMPERATURES):
                losses[at] += np.mean(np.logaddexp.reduce(logs / temperature, axis=1) - right / temperature)
    return float(_TEMPERATURES[losses.argmin()])
