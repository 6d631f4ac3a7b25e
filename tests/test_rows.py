"""Sparsity spread over rows: costs against a literal reference, an exact total, every method and family, verified."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from submodel.base.files import write_json
from submodel.base.matrices import all_matrices
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune.allocate import ALLOCATIONS
from submodel.prune.allocate.rows import row_costs, row_counts
from submodel.prune.gradients import DenseModel
from submodel.prune.learn import distil
from submodel.prune.mask import row_popcounts
from submodel.prune.sparsity import NM, RowSparsity, keep_mask, lowest
from submodel.store import Store
from submodel.store.verify import verify
from tests import tiny

RULES = [name for name, rule in ALLOCATIONS.items() if rule is not None]
DOMAINS = [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(4, 24, seed=1))]


@pytest.mark.parametrize("sparsity", [0.0, 0.03, 0.5, 0.7, 0.97])
def test_the_total_is_exact(sparsity: float):
    rng = np.random.default_rng(0)
    cols = [36, 53, 900]
    costs = [np.exp(3 * rng.standard_normal(rows)) for rows in (40, 12, 7)]
    costs[0][3] = 0  # nothing is felt there
    counts = row_counts(costs, cols, sparsity)
    asked = sum(len(own) * int(width * sparsity) for own, width in zip(costs, cols, strict=True))
    assert sum(int(own.sum()) for own in counts) == asked
    for own, cost, width in zip(counts, costs, cols, strict=True):
        assert own.min() >= 0 and own.max() <= width * (1 - 0.05 * (1 - sparsity))
        assert (np.diff(own[np.argsort(cost)]) <= 1).all(), "what costs more loses more"
        assert not sparsity or sparsity == 0.97 or len(set(own.tolist())) > 1
    even = row_counts([np.ones(40), np.ones(12)], [36, 53], 0.5)
    assert [set(own.tolist()) for own in even] == [{18}, {26}]


def test_costs_are_those_of_the_textbook(llama: Path):
    """Labels drawn from the model's predictions, one gradient a sample, its squares by hand."""
    base, text = open_base(str(llama)), DOMAINS[0]
    dense = DenseModel(base, torch.float32, "cpu")
    found = row_costs(dense, text, RowSparsity(0.6))
    model = base.load(torch.float32)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, dense.model.get_parameter(name)), "the weights stay for what comes after"
    chance = torch.Generator().manual_seed(0)
    names = [matrix.name for matrix in all_matrices(model)]
    assert list(found) == names
    norms: dict[str, Any] = dict.fromkeys(names, 0)
    slopes: dict[str, Any] = dict.fromkeys(names, 0)
    for ids in text.ids:
        said: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = [
            model.get_submodule(name.removesuffix(".weight")).register_forward_hook(
                lambda _, inputs, output, name=name, said=said: said.update({name: (inputs[0], output)})
            )
            for name in names
        ]
        logits = model(input_ids=ids[None]).logits[0]
        for hook in hooks:
            hook.remove()
        labels = logits.detach().softmax(-1).multinomial(1, generator=chance)[:, 0]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        for name, slope in zip(names, torch.autograd.grad(loss, [said[name][1] for name in names]), strict=True):
            norms[name] += said[name][0].detach()[0].double().square().sum(0)
            slopes[name] += slope[0].double().square().sum(0)
    tokens = text.ids.numel()
    for name in names:
        scores = model.get_parameter(name).detach().double().square() * norms[name]
        last = scores.sort(1).values[:, int(scores.shape[1] * 0.6) - 1]
        assert torch.allclose(torch.from_numpy(found[name]), last * slopes[name] / (2 * tokens**2), rtol=1e-4, atol=0)


def test_a_mask_of_uneven_rows():
    scores = torch.randint(0, 5, (300, 41)).float()  # many are equal
    counts = torch.randint(0, 42, (300,))
    keep = keep_mask(scores, RowSparsity(0.5, counts=counts))
    order = scores.argsort(dim=1, stable=True).argsort(1)
    assert torch.equal(keep, order >= counts[:, None]) and torch.equal(~keep, lowest(scores, counts))
    part = RowSparsity(0.5, counts=counts)[7:100]
    assert torch.equal(keep_mask(scores[7:100], part), keep[7:100])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "opt", *tiny.MIXTURES])
@pytest.mark.parametrize("rule", RULES)
def test_every_family(rule: str, family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model")))
    told: list[tuple[int, int]] = []
    run = partial(
        extract, base, DOMAINS, method="wanda", sparsity=RowSparsity(0.6), allocation=rule, dtype=torch.float32
    )
    run(tmp_path / "one", progress=lambda done, total: told.append((done, total)))
    run(tmp_path / "two")
    assert told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1
    assert any("of exact sparsity each" in line for _, line in verify(tmp_path / "one"))
    digests = {
        (out, name): Store(tmp_path / out).manifest(name)["masks"]["sha256"] for out in ("one", "two") for name in "de"
    }
    assert digests["one", "d"] == digests["two", "d"] != digests["one", "e"]
    asked = removed = 0
    uneven: set[str] = set()
    for name, mask in Store(tmp_path / "one").masks("d").items():
        rows = row_popcounts(mask.packed)
        asked += rows.size * int(mask.cols * 0.6)
        removed += int((mask.cols - rows).sum())
        uneven |= {name} if len(np.unique(rows)) > 1 else set()
    assert removed == asked
    stacked = {m.name for m in all_matrices(base.load()) if m.weight.dim() == 3}
    assert uneven and not uneven & stacked, "experts in one parameter lose as much each"


@pytest.mark.parametrize("method", ["magnitude", "ria", "swaps", "pursuit", "sparsegpt", "ria+reconstruct"])
@pytest.mark.parametrize("rule", RULES)
def test_every_method_keeps_to_the_rows(rule: str, method: str, llama: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(distil, "RATE", 0.02)
    run: Any = partial(extract, open_base(str(llama)), DOMAINS[:1], allocation=rule, dtype=torch.float32)
    for by in ("wanda", method, f"{method.partition('+')[0]}+distil" if method in ("ria", "swaps") else "wanda+distil"):
        run(tmp_path / by, method=by)
        verify(tmp_path / by)
        rows = [row_popcounts(mask.packed) for mask in Store(tmp_path / by).masks("d").values()]
        plain = [row_popcounts(mask.packed) for mask in Store(tmp_path / "wanda").masks("d").values()]
        assert all((own == other).all() for own, other in zip(rows, plain, strict=True)), by


def test_a_total_that_is_not_the_recipes_is_found(llama: Path, tmp_path: Path):
    extract(open_base(str(llama)), DOMAINS[:1], tmp_path / "s", method="wanda", allocation="rows", dtype=torch.float32)
    manifest = Store(tmp_path / "s").manifest("d")
    assert manifest["group"] == "matrix"
    first, *_ = manifest["matrix_sparsity"]
    changed = {**manifest["matrix_sparsity"], first: 0.25}
    write_json(tmp_path / "s/submodels/d/manifest.json", {**manifest, "matrix_sparsity": changed})
    with pytest.raises(SubmodelError, match="keeps"):
        verify(tmp_path / "s")
    with pytest.raises(SubmodelError, match="2:4 removes as much of every"):
        extract(open_base(str(llama)), DOMAINS, tmp_path / "t", method="wanda", allocation="rows", sparsity=NM(2, 4))
