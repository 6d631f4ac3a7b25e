"""Methods against literal transcriptions of their publications (published.py; whole models: test_oracle.py)."""

import numpy as np
import pytest
import torch

from submodel.prune.scores.exchange import exchange
from submodel.prune.scores.sparsegpt import inverse_factor, solve
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, keep_mask, parse_sparsity
from tests import published


def _case(rows: int, cols: int, tokens: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, correlated inputs, and their Gram matrix."""
    generator = torch.Generator().manual_seed(rows * cols)
    mixing = torch.randn(cols, cols, generator=generator) * (torch.rand(cols, cols, generator=generator) < 0.3)
    inputs = torch.randn(tokens, cols, generator=generator) @ (torch.eye(cols) + mixing)
    return torch.randn(rows, cols, generator=generator), inputs, inputs.T @ inputs


def _error(weight: torch.Tensor, new: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(((weight - new).double() @ inputs.double().T).square().sum())


def _solved(weight: torch.Tensor, gram: torch.Tensor, pattern: Sparsity, block: int):
    found = solve(weight, inverse_factor(gram.double()).float(), pattern, block)
    assert found.weight is not None
    return found.keep, found.weight


@pytest.mark.parametrize("sparsity", [0.5, 0.3, 0.75])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (20, 64), (5, 130)])
def test_sparsegpt_is_the_published_algorithm_but_for_exact_rows(shape, sparsity: float):
    weight, inputs, gram = _case(*shape)
    keep, new = published.sparsegpt(weight, inputs, sparsity, 20, by_row=True)
    ours, found = _solved(weight, gram, RowSparsity(sparsity), 20)
    assert torch.equal(ours, keep)
    torch.testing.assert_close(found.double(), new, rtol=1e-3, atol=1e-3)
    assert (ours.sum(1) == shape[1] - int(shape[1] * sparsity)).all()


def test_sparsegpt_of_one_row_and_one_block_is_the_published_algorithm():
    weight, inputs, gram = _case(1, 64)
    keep, new = published.sparsegpt(weight, inputs, 0.5, 64)
    ours, found = _solved(weight, gram, RowSparsity(0.5), 64)
    assert torch.equal(ours, keep)
    torch.testing.assert_close(found.double(), new, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pattern", ["2:4", "4:8", "1:3"])
def test_sparsegpt_chooses_in_groups_when_it_comes_to_them(pattern: str):
    """A group is a block of columns of its own; how many columns are computed together changes nothing."""
    weight, inputs, gram = _case(9, 48)
    found = parse_sparsity(None, pattern)
    assert isinstance(found, NM)
    keep, new = torch.zeros(9, 48).bool(), torch.zeros(9, 48).double()
    for row in range(9):  # one row at a time, so that the published choice over all rows is the row's
        keep[row], new[row] = (
            part[0] for part in published.sparsegpt(weight[row : row + 1], inputs, found.fraction + 1e-9, found.m)
        )
    for block in (found.m, 20, 128):
        ours, values = _solved(weight, gram, found, block)
        assert torch.equal(ours, keep)
        torch.testing.assert_close(values.double(), new, rtol=1e-3, atol=1e-3)


def test_sparsegpt_of_a_last_shorter_group():
    weight, _, gram = _case(9, 50)
    keep, _ = _solved(weight, gram, parse_sparsity(None, "2:4"), 16)
    assert (keep[:, :48].view(9, 12, 4).sum(2) == 2).all() and (keep[:, 48:].sum(1) == 1).all()


def test_sparsegpt_with_exact_rows_does_as_well_as_the_published_choice():
    weight, inputs, gram = _case(60, 64)
    _, new = published.sparsegpt(weight, inputs, 0.5, 16)
    _, found = _solved(weight, gram, RowSparsity(0.5), 16)
    wanda = keep_mask(weight.abs() * gram.diagonal().sqrt(), RowSparsity(0.5))
    assert _error(weight, found, inputs) <= 1.1 * _error(weight, new, inputs)
    assert _error(weight, found, inputs) < 0.7 * _error(weight, weight * wanda, inputs)


def test_the_inverse_factor_is_the_cholesky_factor_of_the_inverse():
    gram = _case(1, 33)[2].double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(33)
    torch.testing.assert_close(inverse_factor(gram), torch.linalg.cholesky(torch.linalg.inv(damped)).T)
    assert torch.equal(inverse_factor(torch.zeros(3, 3)), torch.eye(3))


def test_swaps_end_as_low_as_the_published_search():
    """All pairs, one exchange at a time, against few candidates and several exchanges a round."""
    weight, _, gram = _case(12, 40)
    found = exchange(weight, gram, RowSparsity(0.5), rounds=200)
    start = keep_mask(weight.abs() * gram.diagonal().sqrt(), RowSparsity(0.5))
    g, ratios = gram.double().numpy(), []
    for w, first, ours in zip(weight.double().numpy(), start.numpy(), found.keep.numpy(), strict=True):
        r, q = (np.where(mask, 0, w) for mask in (ours, published.sparseswaps(w, first, g)))
        ratios.append((r @ g @ r) / (q @ g @ q))
    assert np.exp(np.mean(np.log(ratios))) < 1.1, ratios
