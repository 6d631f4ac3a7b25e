"""Selection against a plain stable sort, over odd shapes, ties and patterns."""

import pytest
import torch

from submodel.errors import SubmodelError
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, keep_mask, lowest, parse_sparsity


def _slow(scores: torch.Tensor, pattern: Sparsity) -> torch.Tensor:
    keep = torch.ones_like(scores, dtype=torch.bool)
    for i, row in enumerate(scores.tolist()):
        size = pattern.m if isinstance(pattern, NM) else len(row)
        for start in range(0, len(row), size):
            group = range(start, min(start + size, len(row)))
            removed = int(len(row) * pattern.fraction)
            if isinstance(pattern, NM):
                removed = len(group) * (pattern.m - pattern.n) // pattern.m
            for j in sorted(group, key=lambda j: row[j])[:removed]:  # Python's sort is stable
                keep[i, j] = False
    return keep


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 16), (33, 129), (4, 250)])
@pytest.mark.parametrize(
    "given", [(0.0, None), (0.5, None), (0.33, None), (0.99, None), (None, "2:4"), (None, "4:8"), (None, "1:3")]
)
@pytest.mark.parametrize("tied", [False, True])
def test_keep_mask_is_a_stable_sort(shape, given, tied):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(shape, generator=generator)
    if tied:
        scores = (scores * 4).floor() / 4
    pattern = parse_sparsity(*given)
    assert torch.equal(keep_mask(scores, pattern), _slow(scores, pattern))


def test_many_rows_in_chunks():
    scores = torch.rand(3000, 700)
    assert (keep_mask(scores, RowSparsity(0.5)).sum(1) == 350).all()


@pytest.mark.parametrize(
    ("sparsity", "pattern"),
    [(1.5, None), (-0.1, None), (1.0, None), (None, "3:2"), (None, "2"), (None, "0:4"), (None, "4:4"), (0.3, "2:4")],
)
def test_bad_patterns(sparsity, pattern):
    with pytest.raises(SubmodelError):
        parse_sparsity(sparsity, pattern)


@pytest.mark.parametrize("tied", [False, True])
def test_lowest_is_a_stable_sort(tied):
    scores = torch.rand(60, 31)
    if tied:
        scores = (scores * 4).floor() / 4
    counts = torch.arange(60) % 32
    found = lowest(scores, counts)
    for row, count, mine in zip(scores.tolist(), counts.tolist(), found, strict=True):
        assert mine.nonzero().flatten().tolist() == sorted(sorted(range(31), key=lambda j, row=row: row[j])[:count])


def test_not_a_number_is_refused():
    with pytest.raises(SubmodelError, match="not a number"):
        keep_mask(torch.tensor([[1.0, float("nan")]]), RowSparsity(0.5))
