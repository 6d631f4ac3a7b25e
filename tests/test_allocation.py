"""Sparsity spread over blocks and matrices: OWL as published, the cost of a matrix as leaving it dense finds it, an
exact total, every rule in the walk, after a kill, verified."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from submodel.prune.allocate.sensitivity import costs
from submodel.prune.allocate.spread import linear, logarithmic

from submodel.base.files import write_json
from submodel.base.matrices import blocks_of, matrices_of, split_name
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune import gradients as whole
from submodel.prune.allocate import sensitivity
from submodel.prune.allocate.allocation import ALLOCATIONS, attention_or_mlp, outliers, relative_error
from submodel.prune.scores import wanda
from submodel.prune.sparsity import NM, RowSparsity, keep_mask
from submodel.prune.statistics import Gram, SquaredNorm
from submodel.store import Store
from submodel.store.verify import verify
from tests import published, tiny
from tests.kill import KilledOnce

RULES = [name for name, rule in ALLOCATIONS.items() if rule is not None and not rule.by_row]  # see test_rows.py
DOMAINS = [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(4, 24, seed=1))]


def _removed(sparsities: list[float], shapes: list[list[tuple[int, int]]]) -> int:
    return sum(rows * int(cols * s) for s, block in zip(sparsities, shapes, strict=True) for rows, cols in block)


@pytest.mark.parametrize("sparsity", [0.0, 0.03, 0.5, 0.7, 0.97])
@pytest.mark.parametrize("blocks", [1, 2, 9])
def test_the_total_is_exact_to_a_step_of_a_block(sparsity: float, blocks: int):
    rng = np.random.default_rng(blocks)
    shapes = [[(40, 36), (12, 36), (36, 53 + 7 * (k % 3))] for k in range(blocks)]
    found = linear(list(rng.random(blocks)), shapes, sparsity)
    asked = _removed([sparsity] * blocks, shapes)
    steep = logarithmic(list(rng.standard_cauchy(blocks)), shapes, sparsity)
    for each in (found, steep):
        assert asked - 52 < _removed(each, shapes) <= asked
        assert all(0 <= s < 1 for s in each)
    if blocks > 2 and sparsity in (0.5, 0.7):
        assert max(found) - min(found) == pytest.approx(0.16, abs=1e-6)


@pytest.mark.parametrize("found", [[0.3] * 3, [0.0] * 3])
@pytest.mark.parametrize("rule", [linear, logarithmic])
def test_equal_scores_are_uniform(rule: Callable[..., list[float]], found: list[float]):
    sparsities = rule(found, [[(4, 8)]] * 3, 0.5)
    assert sparsities == pytest.approx([0.5] * 3, abs=0.125)
    assert _removed(sparsities, [[(4, 8)]] * 3) == 3 * 16


def test_the_parts_of_a_block():
    assert attention_or_mlp("model.layers.3.mlp.experts.gate_up_proj") == (3, "mlp")
    assert attention_or_mlp("model.layers.3.self_attn.q_proj.weight") == (3, "self_attn")
    assert attention_or_mlp("model.decoder.layers.11.fc1.weight") == (11, "")


def test_a_tenth_less_of_a_matrix_that_costs_e_times_as_much():
    shapes = [[(512, 1000)], [(512, 1000)], [(64, 1000)], [(64, 1000)], [(64, 1000)]]
    each = [512, 512, 64 * np.e, -3, 64 * 1e9]  # what they cost; a weight of the last costs nearly all there is
    one, _, more, none, all_of_it = logarithmic(each, shapes, 0.5)
    assert one - more == pytest.approx(0.1, abs=2e-3)
    assert none - all_of_it == pytest.approx(0.6, abs=2e-3)  # no further than 0.3 up and 0.3 down


def _add(total: Any, more: torch.Tensor) -> None:
    total += more


def test_the_cost_of_a_matrix_is_the_fall_of_the_loss_with_it_dense(llama: Path):
    """So little is removed that a first order is enough: against the loss with the matrix pruned and dense."""
    base = open_base(str(llama))
    pattern, text = RowSparsity(0.06), Samples("d", tiny.ids(5, 24), lengths=(24, 9, 24, 24, 17))
    found = costs(base, text, pattern, dtype=torch.float32, device="cpu")
    model = base.load(torch.float32)
    dense = {name: model.get_parameter(name).data.clone() for name in found}

    norms = {name: torch.zeros(weight.shape[1]) for name, weight in dense.items()}
    with torch.no_grad():
        for name in found:
            model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
                lambda _, a, norm=norms[name]: _add(norm, a[0].flatten(0, -2).square().sum(0))
            )
        wanted = [model(ids[None, :n]).logits[0].log_softmax(-1) for ids, n in zip(text.ids, text.sizes, strict=True)]
        masked = {name: w * keep_mask(w.abs() * norms[name].sqrt(), pattern) for name, w in dense.items()}

        def loss(whole: str | None) -> float:
            for name in found:
                model.get_parameter(name).data = dense[name] if name == whole else masked[name]
            said = [model(ids[None, :n]).logits[0].log_softmax(-1) for ids, n in zip(text.ids, text.sizes, strict=True)]
            both = zip(wanted, said, strict=True)
            return float(sum((w.exp() * (w - s)).sum() for w, s in both)) / sum(text.sizes)

        pruned = loss(None)
        falls = {name: pruned - loss(name) for name in found}
    assert np.corrcoef(list(found.values()), list(falls.values()))[0, 1] > 0.9
    assert sum(found.values()) == pytest.approx(2 * pruned, rel=0.3)  # a square's slope, where it ends


def test_owl_is_the_published_algorithm():
    """Scores of a dense run of the whole model, the authors' ratios, ours in exact numbers up to the row grain."""
    model = tiny.build("llama")
    layers: list[list[torch.Tensor]] = []
    ours, shapes = [], []
    _, blocks = blocks_of(model)
    for block in blocks:
        for weight in block.parameters():
            if weight.dim() == 2:
                weight.data *= torch.rand(()) * 3 * torch.rand_like(weight) ** 4  # outliers, unlike from block to block
    norms: dict[str, SquaredNorm] = {}
    for index, block in enumerate(blocks):
        for matrix in matrices_of(block, str(index)):
            norms[matrix.name] = norm = SquaredNorm(matrix.weight.shape[1], torch.device("cpu"))
            matrix.module.register_forward_pre_hook(
                lambda _, a, norm=norm: norm.update(a[0].reshape(-1, a[0].shape[-1]))
            )
    with torch.no_grad():
        model(DOMAINS[0].ids)
    for index, block in enumerate(blocks):
        matrices = matrices_of(block, str(index))
        layers.append([wanda.score(m.weight.detach(), norms[m.name]) for m in matrices])
        ours.append(outliers([(m.weight.detach(), norms[m.name]) for m in matrices]))
        shapes.append([(m.weight.shape[0], m.weight.shape[1]) for m in matrices])
    theirs = published.owl(layers, 0.7)
    assert max(theirs) - min(theirs) == pytest.approx(0.16)
    assert linear(ours, shapes, 0.7) == pytest.approx(theirs, abs=1 / 36)


def test_the_relative_error_of_a_matrix():
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(9, 20, generator=generator), torch.randn(50, 20, generator=generator)
    gram = Gram(20, torch.device("cpu"))
    gram.update(inputs)
    keep = keep_mask(weight.abs() * inputs.square().sum(0).sqrt(), RowSparsity(0.5))
    dense, lost = weight @ inputs.T, (weight * ~keep) @ inputs.T
    found = relative_error(weight, gram, RowSparsity(0.5))
    assert found == pytest.approx(float(lost.square().sum() / dense.square().sum()), rel=1e-4)
    assert relative_error(torch.zeros(2, 20), gram, RowSparsity(0.5)) == 0


@pytest.mark.parametrize("family", ["llama", "gpt_neox", *tiny.MIXTURES])
@pytest.mark.parametrize("rule", RULES)
def test_blocks_differ_and_rows_are_exact(rule: str, family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model")))
    told: list[tuple[int, int]] = []
    for run in ("one", "two"):
        extract(
            base,
            DOMAINS,
            tmp_path / run,
            sparsity=RowSparsity(0.6),
            allocation=rule,
            dtype=torch.float32,
            progress=lambda done, total: told.append((done, total)),
        )
    assert told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1
    store = Store(tmp_path / "one")
    verify(store.path)
    for name in "de":
        manifest = store.manifest(name)
        assert manifest == {**Store(tmp_path / "two").manifest(name), **_moments(manifest)}
        sparsities = manifest["matrix_sparsity"]
        shapes: list[list[tuple[int, int]]] = []
        assert manifest["allocation"] == rule and len(set(sparsities.values())) > 1
        for matrix, entry in manifest["matrices"].items():
            *rows, cols = entry["shape"]
            shapes.append([(int(np.prod(rows)), cols)])
            assert entry["sparsity"] == pytest.approx(int(cols * sparsities[matrix]) / cols)
        key = attention_or_mlp if rule == "loss" else lambda name: split_name(name)[0]
        assert len({(key(name), s) for name, s in sparsities.items()}) == len({key(name) for name in sparsities})
        in_order = [sparsities[matrix] for matrix in manifest["matrices"]]
        assert 0 <= _removed([0.6] * len(shapes), shapes) - _removed(in_order, shapes) < 1300
    assert store.manifest("d")["matrix_sparsity"] != store.manifest("e")["matrix_sparsity"]


def _moments(manifest: dict) -> dict:
    return {key: manifest[key] for key in ("created", "seconds")}


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "ria+reconstruct"])
def test_any_method(method: str, llama: Path, tmp_path: Path):
    extract(open_base(str(llama)), DOMAINS, tmp_path / "s", method=method, allocation="owl", dtype=torch.float32)
    verify(tmp_path / "s")
    sparsities = {e["sparsity"] for e in Store(tmp_path / "s").manifest("d")["matrices"].values()}
    assert len(sparsities) > 2


def test_uniform_is_as_without(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    extract(base, DOMAINS, tmp_path / "s", dtype=torch.float32)
    again = extract(base, DOMAINS, tmp_path / "s", dtype=torch.float32, allocation="uniform")
    assert again.already == ["d", "e"] and "matrix_sparsity" not in again.manifests["d"]
    with pytest.raises(SubmodelError, match="another recipe"):
        extract(base, DOMAINS, tmp_path / "s", dtype=torch.float32, allocation="owl")


@pytest.mark.parametrize("files", [2, 4, 7, 8, 9, 10, 13])
def test_interrupted_in_either_pass_and_started_again(files: int, llama: Path, tmp_path: Path, monkeypatch):
    """It stops after so many: store.json, scores and journal of 3 blocks, the allocation, masks and journal of 3."""
    base = open_base(str(llama))
    run = partial(extract, base, DOMAINS, allocation="owl", dtype=torch.float32, batch_tokens=48)
    run(out=tmp_path / "whole")
    KilledOnce(monkeypatch, os, "replace", files + 1)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "store")
    monkeypatch.undo()
    read: list[str] = []
    fill = Base.fill

    def counting(self, model, wanted, targets):
        read.extend(target.split(".")[2] for target in targets.values() if "q_proj" in target and wanted(target))
        return fill(self, model, wanted, targets)

    monkeypatch.setattr(Base, "fill", counting)
    again = run(out=tmp_path / "store")
    assert again.resumed_blocks == max(0, files - 8) // 2
    # blocks that are left of the dense pass and of the last one, and block 0 once a pass to learn what it returns
    dense = 3 - min(3, (files - 1) // 2)
    passes = [dense, 3 - again.resumed_blocks] if files < 8 else [3 - again.resumed_blocks]
    assert len(read) == sum(left + (left < 3) for left in passes)
    assert _content(tmp_path / "store") == _content(tmp_path / "whole")
    assert not (tmp_path / "store/work").exists()


@pytest.mark.parametrize("samples", [2, 5, 7])
@pytest.mark.parametrize(("rule", "step"), [("loss", "learn"), ("rows", "own_slopes")])
def test_interrupted_between_gradients_and_started_again(
    rule: str, step: str, samples: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After so many samples' gradients, 5 of the first domain and 4 of the second: a domain that is done stays done."""
    run = partial(extract, open_base(str(llama)), DOMAINS, allocation=rule, dtype=torch.float32, batch_tokens=48)
    run(out=tmp_path / "whole")
    learnt = KilledOnce(monkeypatch, sensitivity, step, samples + 1)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "store")
    learnt.calls = 0
    run(out=tmp_path / "store")
    assert learnt.calls == (9 if samples < 5 else 4)
    assert _content(tmp_path / "store") == _content(tmp_path / "whole")
    assert not (tmp_path / "store/work").exists()


def _content(store: Path) -> list[object]:
    manifests = [Store(store).manifest(name) for name in "de"]
    return [(m["masks"]["sha256"], m["matrix_sparsity"]) for m in manifests]


def test_what_does_not_fit_is_refused(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = open_base(str(llama))
    with pytest.raises(SubmodelError, match="did you mean 'owl'"):
        extract(base, DOMAINS, tmp_path / "s", allocation="owls")
    with pytest.raises(SubmodelError, match="2:4 removes as much of every block"):
        extract(base, DOMAINS, tmp_path / "s", allocation="owl", sparsity=NM(2, 4))
    monkeypatch.setattr(whole.os, "sysconf", lambda name: 100)
    with pytest.raises(SubmodelError, match="GiB, this machine has .*: give another --allocation"):
        extract(base, DOMAINS, tmp_path / "s", allocation="loss")
    monkeypatch.undo()
    empty = Samples("m", torch.empty(0, 0, dtype=torch.int64))
    with pytest.raises(SubmodelError, match="needs text"):
        extract(base, [empty], tmp_path / "s", method="magnitude", allocation="owl")
    assert not (tmp_path / "s").exists()


def test_a_row_of_another_blocks_sparsity_is_found(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    extract(base, DOMAINS[:1], tmp_path / "s", allocation="error", dtype=torch.float32)
    file = tmp_path / "s/submodels/d/manifest.json"
    manifest = Store(tmp_path / "s").manifest("d")
    names, sparsities = zip(*manifest["matrix_sparsity"].items(), strict=True)
    write_json(file, {**manifest, "matrix_sparsity": dict(zip(names, sparsities[::-1], strict=True))})
    with pytest.raises(SubmodelError, match="keeps"):
        verify(tmp_path / "s")
