"""Published algorithms, transcribed word by word in float64: the slow twins of the methods' tests.

Wanda, RIA and magnitude are in benchmarks/textbook.py, which prunes whole models.
"""

import numpy as np
import torch


def sparsegpt(
    weight: torch.Tensor, inputs: torch.Tensor, sparsity: float, block: int, *, by_row: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Algorithm 1 of arXiv 2301.00774 with B = Bs = `block`; mask (True = kept) and new weights.

    Weight (rows, cols), inputs (tokens, cols). As published a fraction `sparsity` of each block of columns is chosen
    over all rows; `by_row` instead those are chosen that are in the block and among the cheapest of the rest of their
    row, as many as it has still to lose. Dampening as in the authors' code, 1% of the mean of H's diagonal.
    """
    w = weight.double().clone()
    rows, cols = w.shape
    h = inputs.double().T @ inputs.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(cols, dtype=torch.float64)
    hinv = torch.linalg.cholesky(torch.linalg.inv(h)).T
    m = torch.ones(rows, cols, dtype=torch.float64)
    left = [int(cols * sparsity)] * rows
    for i in range(0, cols, block):
        end = min(i + block, cols)
        e = torch.zeros(rows, end - i, dtype=torch.float64)
        for j in range(i, end):
            if j == i:
                score = w[:, i:] ** 2 / hinv.diagonal()[i:] ** 2
                if by_row:
                    for r in range(rows):
                        chosen = [i + int(k) for k in score[r].argsort()[: left[r]] if i + int(k) < end]
                        m[r, chosen] = 0
                        left[r] -= len(chosen)
                else:
                    width = end - i
                    for k in score[:, :width].flatten().argsort()[: int(rows * width * sparsity)].tolist():
                        m[k // width, i + k % width] = 0
            e[:, j - i] = w[:, j] / hinv[j, j]
            e[:, j - i] = (1 - m[:, j]) * e[:, j - i]
            w[:, j:end] = w[:, j:end] - torch.outer(e[:, j - i], hinv[j, j:end])
        w[:, end:] = w[:, end:] - e @ hinv[i:end, end:]
    return m.bool(), w * m


def sparseswaps(weight: np.ndarray, keep: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """arXiv 2512.10922 for one row: make the best of all 1-swaps until none lowers the row's error."""
    keep = keep.copy()
    while True:
        c = np.where(keep, 0, weight) @ gram
        best, swap = -1e-9, None
        for u in np.flatnonzero(keep):
            for p in np.flatnonzero(~keep):
                delta = 2 * weight[u] * c[u] + weight[u] ** 2 * gram[u, u]
                delta += -2 * weight[p] * c[p] + weight[p] ** 2 * gram[p, p]
                delta -= 2 * weight[u] * weight[p] * gram[u, p]
                if delta < best:
                    best, swap = delta, (u, p)
        if swap is None:
            return keep
        keep[swap[0]], keep[swap[1]] = False, True
