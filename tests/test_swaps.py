"""Swaps against brute force, plain recomputation of the error, and their own promises."""

import itertools

import numpy as np
import pytest
import torch

from submodel.prune.scores.exchange import exchange
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, keep_mask, parse_sparsity

pytestmark = pytest.mark.usefixtures("kernels")  # all of it for the torch twin and for every instruction set


def _case(rows: int, cols: int, tokens: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, correlated inputs, and their Gram matrix."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(cols, cols, generator=generator) * (torch.rand(cols, cols, generator=generator) < 0.3)
    inputs = torch.randn(tokens, cols, generator=generator) @ (torch.eye(cols) + mixing)
    return torch.randn(rows, cols, generator=generator), inputs, inputs.T @ inputs


def _errors(
    weight: torch.Tensor, keep: torch.Tensor, inputs: torch.Tensor, beyond: torch.Tensor | float = 0.0
) -> np.ndarray:
    """||W X + beyond - (M W) X||^2 of every row, as the definition has it."""
    dropped = torch.where(keep, 0.0, weight).double()
    return (dropped @ inputs.double().T + beyond).square().sum(1).numpy()


def _wanda(weight: torch.Tensor, gram: torch.Tensor, pattern: Sparsity) -> torch.Tensor:
    return keep_mask(weight.abs() * gram.diagonal().sqrt(), pattern)


@pytest.mark.parametrize("given", [(0.5, None), (0.3, None), (0.9, None), (0.0, None), (None, "2:4"), (None, "4:8")])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (20, 64), (5, 130)])
def test_errors_fall_and_counts_stay(shape, given):
    weight, inputs, gram = _case(*shape)
    pattern = parse_sparsity(*given)
    found = exchange(weight, gram, pattern)
    start = _wanda(weight, gram, pattern)
    before, after = _errors(weight, start, inputs), _errors(weight, found.keep, inputs)
    assert (after <= before * (1 + 1e-5)).all()
    np.testing.assert_allclose(found.before, before, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.after, after, rtol=1e-3, atol=1e-3 * max(1.0, before.max()))
    assert torch.equal(found.keep.sum(1), start.sum(1))
    if isinstance(pattern, NM):
        whole = shape[1] // pattern.m * pattern.m
        groups = found.keep[:, :whole].view(shape[0], -1, pattern.m)
        assert (groups.sum(2) == pattern.n).all()
        assert torch.equal(found.keep[:, whole:], start[:, whole:])
    if shape[1] > 60 and given[0] != 0.0:
        assert after.sum() < 0.8 * before.sum()


@pytest.mark.parametrize("given", [(0.5, None), (0.8, None), (None, "2:4")])
@pytest.mark.parametrize("shape", [(7, 13), (20, 64), (5, 130)])
def test_toward_other_outputs(shape, given):
    """Errors against what is asked for fall, below what exchanges that do not know of it come to."""
    weight, inputs, gram = _case(*shape)
    pattern = parse_sparsity(*given)
    start = _wanda(weight, gram, pattern)
    # half of what other inputs would have given, and as much that has nothing to do with the weight
    other = inputs + 0.2 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1)) * inputs.std()
    beyond = weight @ (other - inputs).T
    beyond += 0.5 * beyond.std() * torch.randn(beyond.shape, generator=torch.Generator().manual_seed(2))
    asked = beyond @ inputs
    found = exchange(weight, gram, pattern, gap=asked)
    before, after = _errors(weight, start, inputs, beyond), _errors(weight, found.keep, inputs, beyond)
    assert (after <= before * (1 + 1e-5)).all() and torch.equal(found.keep.sum(1), start.sum(1))
    constant = beyond.double().square().sum(1).numpy()
    np.testing.assert_allclose(found.before.numpy() + constant, before, rtol=1e-3)
    np.testing.assert_allclose(found.after.numpy() + constant, after, rtol=1e-3, atol=1e-3 * before.max())
    unknowing = _errors(weight, exchange(weight, gram, pattern).keep, inputs, beyond)
    assert after.sum() < unknowing.sum()


@pytest.mark.parametrize("given", [(0.5, None), (None, "2:4")])
def test_a_fixed_point_toward_other_outputs(given):
    weight, inputs, gram = _case(24, 24)
    beyond = 2 * torch.randn(24, len(inputs), generator=torch.Generator().manual_seed(1))
    pattern, asked = parse_sparsity(*given), beyond @ inputs
    found = exchange(weight, gram, pattern, gap=asked, rounds=500, candidates=24)
    errors = _errors(weight, found.keep, inputs, beyond)
    rows = zip(weight.double().numpy(), found.keep.numpy(), asked.double().numpy(), errors, strict=True)
    left = [
        -_best_single(w, k, gram.double().numpy(), pattern.m if isinstance(pattern, NM) else 0, gap=b, error=e)
        for w, k, b, e in rows
    ]
    assert max(left) <= 1e-4


def _best_single(
    weight: np.ndarray,
    keep: np.ndarray,
    gram: np.ndarray,
    m: int,
    gap: np.ndarray | float = 0.0,
    error: float | None = None,
) -> float:
    """The most that any one exchange changes the error, as a part of it, by trying all."""
    best = 0.0
    r = np.where(keep, 0, weight)
    now = r @ (gram @ r + 2 * gap)
    for i, j in itertools.product(np.flatnonzero(keep), np.flatnonzero(~keep)):
        if not m or i // m == j // m:
            other = r.copy()
            other[i], other[j] = weight[i], 0
            best = min(best, other @ (gram @ other + 2 * gap) - now)
    return float(best / max(now if error is None else error, 1e-12))


@pytest.mark.parametrize("given", [(0.5, None), (None, "2:4")])
def test_a_fixed_point_has_no_exchange_that_gains(given):
    """With all columns as candidates nothing is left; with the usual few, next to nothing."""
    weight, _, gram = _case(24, 24)
    pattern = parse_sparsity(*given)
    for candidates, allowed in ((24, 1e-4), (8, 0.02)):
        found = exchange(weight, gram, pattern, rounds=500, candidates=candidates)
        left = [
            -_best_single(w, k, gram.double().numpy(), pattern.m if isinstance(pattern, NM) else 0)
            for w, k in zip(weight.double().numpy(), found.keep.numpy(), strict=True)
        ]
        assert max(left) <= allowed, (candidates, max(left))


@pytest.mark.parametrize("cols", [4, 8, 12])
def test_near_the_best_of_all_masks(cols: int):
    """Brute force over every mask of a row: most rows reach the optimum, and the rest of the way is short."""
    weight, _, gram = _case(40, cols, seed=cols)
    found = exchange(weight, gram, RowSparsity(0.5), rounds=200, candidates=cols)
    g = gram.double().numpy()
    reached, gap = 0, []
    for w, keep in zip(weight.double().numpy(), found.keep.numpy(), strict=True):
        r = np.where(keep, 0, w)
        mine = r @ g @ r
        best = min(
            (lambda d: d @ g @ d)(np.where(np.isin(np.arange(cols), kept), 0, w))
            for kept in itertools.combinations(range(cols), cols - cols // 2)
        )
        reached += mine <= best * (1 + 1e-5) + 1e-9
        gap.append(mine / max(best, 1e-9))
    assert reached >= 0.7 * len(weight), reached
    assert np.median(gap) == pytest.approx(1, abs=1e-4)


def test_a_diagonal_gram_leaves_wanda_as_it_is():
    weight, _, gram = _case(9, 40)
    diagonal = gram.diagonal().diag()
    found = exchange(weight, diagonal, RowSparsity(0.5))
    assert torch.equal(found.keep, _wanda(weight, gram, RowSparsity(0.5)))
