"""95% confidence intervals: of a mean over independent blocks or problems, and of a rate."""

import math
from collections.abc import Callable

import numpy as np

_RESAMPLES = 10_000
_Z = 1.959963984540054


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of the mean over `values` (one a block or problem), `statistic` applied to each mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    low, high = statistic(np.quantile(means, [0.025, 0.975]))
    return float(low), float(high)


def ratio(values: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean of `values` over mean of `others`, and its percentile bootstrap over their pairs."""
    chosen = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1) / others[chosen].mean(axis=1), [0.025, 0.975])
    return float(values.mean() / others.mean()), float(low), float(high)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a rate; unlike the bootstrap it has a width at 0 of n and n of n."""
    rate = hits / n
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The interval of a mean of numbers from 0 to 1: Wilson's where all are 0 or 1 (a rate), else the bootstrap."""
    if np.isin(values, (0.0, 1.0)).all():
        return wilson(int(values.sum()), len(values))
    return bootstrap(values)
