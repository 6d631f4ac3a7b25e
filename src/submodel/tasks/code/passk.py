"""The unbiased estimate of pass@k: Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.1."""

import numpy as np


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The chance that one of k drawn from n samples passes, when `passed` of the n do: 1 - C(n - passed, k) / C(n, k).

    Raises ValueError unless 1 <= k <= n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples: k must lie between 1 and n")
    if n - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - passed + 1, n + 1)))
