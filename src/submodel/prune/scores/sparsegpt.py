"""SparseGPT: remove weights column by column, the columns to the right make up for it (Frantar & Alistarh 2023).

https://arxiv.org/abs/2301.00774, https://github.com/IST-DASLab/sparsegpt. With H = X X^T + damping and U the upper
triangular matrix of H^-1 = U^T U, column j of a row is removed at the cost (w_j / U_jj)^2, and its removal changes the
columns k > j by -w_j U_jk / U_jj. Masks are chosen for a block of columns at a time, so that a choice sees what the
removals before it have changed.

Deviations: the store needs exact rows, so at each block of columns the weights that are cheapest in the rest of their
row, as many as the row has still to lose, are marked, and those of them in the block go (the authors remove one
fraction of every block, compared over all its rows); U comes from one Cholesky factor of H read backwards, not from the
inverse, and in float64; a feature that no token has is not treated apart (the authors set its weights to zero).
"""

import torch

from submodel.errors import SubmodelError
from submodel.prune.scores.score import Part, Score
from submodel.prune.sparsity import NM, Sparsity, keep_mask, lowest
from submodel.prune.statistics import Gram
from submodel.walk import Pruned

_DAMPING = 0.01  # of the mean of H's diagonal; the authors' percdamp
_BLOCK = 128  # columns; the authors' blocksize


def prepare(weight: torch.Tensor, inputs: Gram) -> torch.Tensor:
    """The upper triangular U with U^T U = (X X^T + damping)^-1, float32 (cols, cols)."""
    return inverse_factor(inputs.products.to(weight.device, torch.float64)).float()


def inverse_factor(gram: torch.Tensor, damping: float = _DAMPING) -> torch.Tensor:
    """The upper triangular U with U^T U = (gram + damping x mean(diagonal) I)^-1.

    Reversed in rows and columns the damped gram is L L^T, so the gram itself is R R^T with R, L reversed, upper
    triangular; then U = R^-1.

    Raises SubmodelError when there is none.
    """
    mean = gram.diagonal().mean()
    damped = gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device) * (damping * mean if mean > 0 else 1)
    lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if failed:
        raise SubmodelError("the inputs' Gram matrix has no factor: the activations overflow; try --dtype float32")
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)


def solve(weight: torch.Tensor, factor: torch.Tensor, sparsity: Sparsity, block: int = _BLOCK) -> Pruned:
    """Prune some rows.

    Args:
        weight: float32 (rows, cols).
        factor: U of `inverse_factor`, float32 (cols, cols).
        sparsity: what to remove; N:M removes inside a group and chooses when it comes to the group.
        block: columns that are chosen, and changed, together; rounded down to whole groups of N:M.

    Returns:
        Mask and new weights; every row and group keeps as many as `keep_mask` keeps.
    """
    weight = weight.clone()
    keep = torch.ones_like(weight, dtype=torch.bool)
    rows, cols = weight.shape
    diagonal = factor.diagonal().contiguous()
    remaining = sparsity.removed_of_rows(rows, cols).to(weight.device, copy=True)  # to remove of every row
    group_size = sparsity.m if isinstance(sparsity, NM) else 0
    step = max(1, block // group_size) * group_size if group_size else block
    for start in range(0, cols, step):
        stop = min(start + step, cols)
        part, u = weight[:, start:stop], factor[start:stop, start:stop]
        kept = keep[:, start:stop]
        if not group_size:
            cheapest = lowest(_costs(weight[:, start:], diagonal[start:]), remaining)
            kept.copy_(~cheapest[:, : stop - start])
            remaining -= (~kept).sum(1)
        change = torch.zeros_like(part)  # of column j: what its removal takes away, over U_jj
        for j in range(stop - start):
            if group_size and j % group_size == 0:
                group = slice(j, min(j + group_size, stop - start))
                kept[:, group] = keep_mask(_costs(part[:, group], u.diagonal()[group]), sparsity)
            change[:, j] = part[:, j].masked_fill(kept[:, j], 0) / u[j, j]
            part[:, j + 1 :].addr_(change[:, j], u[j, j + 1 :], alpha=-1)
        weight[:, stop:].addmm_(change, factor[start:stop, stop:], alpha=-1)
    return Pruned(keep, weight.masked_fill_(~keep, 0))


def _costs(weight: torch.Tensor, diagonal: torch.Tensor) -> torch.Tensor:
    return (weight / diagonal).square()


def decide(weight: torch.Tensor, factor: torch.Tensor, sparsity: Sparsity, part: Part) -> Pruned:
    """`solve`; where the rows stand does not matter."""
    return solve(weight, factor, sparsity)


SPARSEGPT = Score("column by column, the rest makes up for it (arXiv 2301.00774)", Gram, decide, prepare)
