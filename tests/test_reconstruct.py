"""The fit of kept weights against torch's least squares, and its promise: never above the mask's own error."""

import pytest
import torch

from submodel.prune.refit import refit
from submodel.prune.sparsity import keep_mask, parse_sparsity


def _case(rows: int, cols: int, tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, correlated inputs, and their Gram matrix, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    mixing = torch.randn(cols, cols, **draw) * (torch.rand(cols, cols, **draw) < 0.3)
    inputs = torch.randn(tokens, cols, **draw) @ (torch.eye(cols) + mixing)
    return torch.randn(rows, cols, **draw), inputs, inputs.T @ inputs


def _errors(weight: torch.Tensor, new: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    return ((weight - new) @ inputs.T).square().sum(1)


@pytest.mark.parametrize("shape", [(1, 1), (6, 9), (11, 40)])
def test_without_a_ridge_it_is_least_squares(shape):
    weight, inputs, gram = _case(*shape, tokens=100)
    keep = keep_mask((weight.abs() * gram.diagonal().sqrt()).float(), parse_sparsity(0.5, None))
    found = refit(weight, keep, gram, ridge=0, steps=500, near=1e-10)
    for w, kept, ours in zip(weight, keep, found, strict=True):
        expected = torch.linalg.lstsq(inputs[:, kept], inputs @ w).solution
        torch.testing.assert_close(ours[kept], expected, rtol=1e-5, atol=1e-5)
        assert (ours[~kept] == 0).all()


def test_a_ridge_is_least_squares_with_rows_that_hold_the_weights():
    weight, inputs, gram = _case(5, 20, tokens=60)
    keep = keep_mask(weight.abs().float(), parse_sparsity(0.5, None))
    found = refit(weight, keep, gram, ridge=0.3, steps=500, near=1e-10)
    hold = (0.3 * gram.diagonal()).sqrt().diag()
    for w, kept, ours in zip(weight, keep, found, strict=True):
        left = torch.cat([inputs[:, kept], hold[kept][:, kept]])
        right = torch.cat([inputs @ w, hold[kept][:, kept] @ w[kept]])
        torch.testing.assert_close(ours[kept], torch.linalg.lstsq(left, right).solution, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [3, 30, 300])
@pytest.mark.parametrize("given", [(0.5, None), (0.0, None), (0.9, None), (None, "2:4")])
@pytest.mark.parametrize(
    "options", [{"ridge": 0.1}, {"ridge": 0.0}, {"ridge": 9.0, "steps": 1}, {"ridge": 0.0, "steps": 3}]
)
def test_the_error_is_never_above_the_masks(tokens: int, given, options: dict):
    """Also with fewer tokens than weights, where the Gram matrix is singular, and in float32."""
    weight, inputs, gram = _case(25, 64, tokens, seed=tokens)
    keep = keep_mask((weight.abs() * gram.diagonal().sqrt()).float(), parse_sparsity(*given))
    before = _errors(weight, weight * keep, inputs)
    for dtype in (torch.float64, torch.float32):
        found = refit(weight.to(dtype), keep, gram.to(dtype), **options)
        assert (found[~keep] == 0).all() and found.isfinite().all()
        after = _errors(weight, found.double(), inputs)
        assert (after <= before * (1 + 1e-4) + 1e-6).all()
    if tokens == 300 and given[0] == 0.5 and options == {"ridge": 0.1}:
        assert after.sum() < 0.6 * before.sum()


@pytest.mark.parametrize("tokens", [30, 300])
@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_products_in_fewer_bits_lose_little_of_the_gain(tokens: int, ridge: float):
    weight, inputs, gram = (t.float() for t in _case(25, 64, tokens))
    keep = keep_mask(weight.abs() * gram.diagonal().sqrt(), parse_sparsity(0.5, None))
    asked = torch.randn(25, tokens, generator=torch.Generator().manual_seed(1)) @ inputs

    def cost(new: torch.Tensor) -> torch.Tensor:
        off, moved = weight - new, (new - weight * keep).square() @ gram.diagonal()
        return ((off @ gram + 2 * asked) * off).sum(1) + ridge * moved

    before, least = cost(weight * keep), cost(refit(weight, keep, gram, ridge=ridge, gap=asked, steps=200, near=1e-5))
    found = refit(weight, keep, gram, ridge=ridge, gap=asked, rough=gram.bfloat16())
    assert (found[~keep] == 0).all()
    assert (cost(found) - least < 0.01 * (before - least)).all()


def test_a_feature_that_no_token_has_keeps_its_weight():
    weight, inputs, _ = _case(4, 10, tokens=50)
    inputs[:, 3] = 0
    found = refit(weight, torch.arange(10) % 2 == 1, inputs.T @ inputs, ridge=0.0)
    assert torch.equal(found[:, 3], weight[:, 3])
    assert torch.equal(refit(weight, torch.ones(4, 10).bool(), inputs.T @ inputs, ridge=0.1), weight)
