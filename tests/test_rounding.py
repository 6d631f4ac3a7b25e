"""Rounding to a packed format's grid: the search against brute force and its promise, and what packing then finds."""

from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune.rounding import descend
from submodel.runtime import load
from submodel.runtime.packed.formats import FORMATS, GRIDS, scales_of
from submodel.runtime.packed.linear import packed_matrices
from submodel.runtime.packed.matrix import pack, unpack
from submodel.store import Store
from tests import tiny
from tests.kill import KilledOnce
from tests.test_cli import extract_options, run
from tests.test_kernels import SHAPES, _example
from tests.test_reconstruct import _case

SAMPLES = Samples("d", tiny.ids(5, 24))


def _sum(weight: torch.Tensor, new: torch.Tensor, gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """What `descend` makes small, of every row."""
    error = new - weight
    return ((error @ gram) * error).sum(1) + ridge * (error.square() @ gram.diagonal())


def _grid(weight: torch.Tensor, keep: torch.Tensor, half: int) -> torch.Tensor:
    return (weight.abs().amax(1, keepdim=True) / half).expand_as(weight).masked_fill(~keep, 0)


def _nearest(weight: torch.Tensor, scales: torch.Tensor, half: int) -> torch.Tensor:
    return torch.where(scales == 0, 0, (weight / scales).round().clamp(-half, half - 1) * scales)


@pytest.mark.parametrize("ridge", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(1, 1), (9, 5), (20, 64), (7, 65), (6, 150)])
@pytest.mark.parametrize("half", [8, 128])
def test_the_sum_is_never_above_the_nearest_points(shape: tuple[int, int], half: int, ridge: float):
    weight, _, gram = _case(*shape, tokens=200)
    keep = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    scales = _grid(weight, keep, half)
    nearest = _nearest(weight, scales, half)
    before, last = _sum(weight * keep, nearest, gram, ridge), None
    for sweeps in (0, 1, 2, 5, 50):
        found = descend(weight, scales, half, gram, ridge=ridge, sweeps=sweeps)
        exact = torch.where(scales == 0, 0, found / scales)
        steps = exact.round()
        assert (found[~keep] == 0).all() and ((exact - steps).abs() < 1e-6).all()
        assert steps.min() >= -half and steps.max() <= half - 1
        after = _sum(weight * keep, found, gram, ridge)
        assert torch.equal(found, nearest) if sweeps == 0 else (after <= before * (1 + 1e-9) + 1e-12).all()
        before, last = after, found
    if shape == (20, 64):
        assert last is not None and before.sum() < 0.8 * _sum(weight * keep, nearest, gram, ridge).sum()
    # and at its end no single weight has a better point
    assert last is not None and torch.equal(last, descend(weight, scales, half, gram, ridge=ridge, sweeps=51))


def test_it_comes_near_the_best_of_all_points():
    """Rows of 6 weights on 4 points each, all 4,096 combinations tried."""
    weight, _, gram = _case(40, 6, tokens=80)
    scales = _grid(weight, torch.ones(40, 6, dtype=torch.bool), 2)
    every = torch.tensor(list(product(range(-2, 2), repeat=6)), dtype=weight.dtype)
    best = torch.stack([_sum(w, every * s, gram, 0.0).min() for w, s in zip(weight, scales, strict=True)])
    ours = _sum(weight, descend(weight, scales, 2, gram, ridge=0.0, sweeps=50), gram, 0.0)
    nearest = _sum(weight, _nearest(weight, scales, 2), gram, 0.0)
    assert (ours >= best * (1 - 1e-9)).all() and (ours <= nearest * (1 + 1e-9)).all()
    assert (ours <= best * (1 + 1e-9)).sum() >= 25 and ours.sum() < 1.2 * best.sum() < 0.8 * nearest.sum()


def test_a_feature_that_no_token_has_is_rounded_to_the_nearest():
    weight, inputs, _ = _case(4, 10, tokens=50)
    inputs[:, 3] = 0
    scales = _grid(weight, torch.ones(4, 10, dtype=torch.bool), 8)
    found = descend(weight, scales, 8, inputs.T @ inputs, ridge=0.0)
    assert torch.equal(found[:, 3], _nearest(weight, scales, 8)[:, 3])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grid", GRIDS)
def test_packing_finds_what_was_rounded(grid: str, shape: tuple[int, int], kernels: str):
    """Any points of the base's grid, stored in bfloat16, are in the packed matrix, also where its edge is dropped."""
    weights, mask, keep = _example(*shape)
    scales = scales_of(weights, grid).float().repeat_interleave(64, 1)[:, : shape[1]]
    half = 1 << FORMATS[grid].bits - 1
    steps = torch.randint(-half, half, shape, generator=torch.Generator().manual_seed(2))
    own = (steps * scales * keep).to(torch.bfloat16)
    assert torch.equal(unpack(pack(own, mask, grid, weights)), own)


def _references(family: str, tmp_path: Path, **options) -> str:
    base = open_base(str(tiny.save(family, tmp_path / "model", torch.bfloat16)))
    extract(base, [SAMPLES], tmp_path / "store", **options)
    return f"{tmp_path / 'store'}@d"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    "method", ["magnitude", "swaps", "wanda+reconstruct", "wanda+distil", "wanda+reconstruct+distil"]
)
@pytest.mark.parametrize("family", ["llama", next(iter(tiny.MIXTURES))])
def test_a_sub_model_on_a_grid_loses_nothing_by_packing(family: str, method: str, grid: str, tmp_path: Path):
    reference = _references(family, tmp_path, method=method, grid=grid)
    manifest = Store(tmp_path / "store").manifest("d")
    whole = _references(family, tmp_path / "whole", method=method)
    assert manifest["grid"] == grid and manifest["masks"] == Store(Path(whole[:-2])).manifest("d")["masks"]
    plain = load(reference).model
    packed = dict(packed_matrices(load(reference, weight_format=grid).model))
    unseen = {name.partition("[")[0] for name in Store(tmp_path / "store").manifest("d")["unseen_experts"]}
    checked = 0
    for name in Store(tmp_path / "store").masks("d").keys() - unseen:
        weight = plain.get_parameter(name)
        for expert, held in zip(weight if weight.dim() == 3 else weight[None], packed[name], strict=True):
            assert torch.equal(unpack(held), expert)
            checked += 1
    assert checked > 6


def test_the_fit_is_what_is_rounded(tmp_path: Path):
    """4 bits after a fit are nearer to the dense output than 4 bits of the mask's own weights."""
    found = {}
    for name, method in (("mask", "wanda"), ("fit", "wanda+reconstruct")):
        reference = _references("llama", tmp_path / name, method=method, grid="int4", dtype=torch.float32)
        found[name] = load(reference, dtype=torch.float32).model
    dense = open_base(str(tmp_path / "fit" / "model")).load(torch.float32)
    with torch.no_grad():
        logits = dense(SAMPLES.ids).logits
        off = {name: float((model(SAMPLES.ids).logits - logits).norm()) for name, model in found.items()}
    assert off["fit"] < off["mask"]


def test_the_command_line(llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    out = tmp_path / "s"
    options = [*extract_options(llama, texts, out), "--grid", "int4", "--method", "magnitude"]
    assert run(capsys, *options)[0] == 0
    assert "own weights on the grid of int4" in run(capsys, "info", f"{out}@python")[1]
    assert run(capsys, "verify", out)[0] == 0
    assert run(capsys, "export", f"{out}@python", "--format", "packed-int4", "--out", tmp_path / "packed")[0] == 0
    said = [
        run(capsys, "generate", *model, "--prompt", "x", "--max-tokens", 8)[1]
        for model in ([f"{out}@python", "--format", "int4"], [tmp_path / "packed"])
    ]
    assert said[0] == said[1]
    status, _, refused = run(capsys, *extract_options(llama, texts, tmp_path / "t"), "--grid", "int5")
    assert status == 2 and "int5" in refused and "int4" in refused and not (tmp_path / "t").exists()


def test_a_grid_that_does_not_exist_is_refused(llama: Path):
    with pytest.raises(SubmodelError, match="grid"):
        extract(open_base(str(llama)), [SAMPLES], Path("never"), grid="bf16")


def test_it_goes_on_after_an_interruption_and_beside_another_domain(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_openings
):
    set_openings(16)
    base = open_base(str(llama))
    options: dict[str, Any] = {"method": "wanda+reconstruct", "grid": "int4", "dtype": torch.float32}
    extract(base, [SAMPLES], tmp_path / "alone", **options)
    both = [SAMPLES, Samples("e", tiny.ids(4, 24))]
    KilledOnce(monkeypatch, import_module("submodel.walk.walk"), "write_journal", 2)
    with pytest.raises(KeyboardInterrupt):
        extract(base, both, tmp_path / "both", **options)
    assert extract(base, both, tmp_path / "both", **options).resumed_blocks == 1
    alone, beside, other = (
        Store(tmp_path / store).manifest(name)["weights"]
        for store, name in (("alone", "d"), ("both", "d"), ("both", "e"))
    )
    assert alone == beside != other
