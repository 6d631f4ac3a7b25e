"""Allocations in the job: an exact total, uniform as without, after a kill, what is refused.

test_rows.py and test_marginal.py have their maths.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from submodel.base.files import write_json
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune import gradients
from submodel.prune.allocate import ALLOCATIONS, rows
from submodel.prune.sparsity import NM, RowSparsity
from submodel.store import Store
from submodel.store.verify import verify
from tests import tiny
from tests.kill import KilledOnce

DOMAINS = [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(4, 24, seed=1))]
wanda = partial(extract, method="wanda", dtype=torch.float32)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", *tiny.MIXTURES])
@pytest.mark.parametrize("rule", [name for name, rule in ALLOCATIONS.items() if rule])
def test_matrices_differ_and_the_total_is_exact(rule: str, family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model")))
    progress: list[tuple[int, int]] = []
    for run in ("one", "two"):
        extract(
            base,
            DOMAINS,
            tmp_path / run,
            method="wanda",
            sparsity=RowSparsity(0.6),
            allocation=rule,
            dtype=torch.float32,
            progress=lambda done, total: progress.append((done, total)),
        )
    assert progress[-1][0] == progress[-1][1] and len({total for _, total in progress}) == 1
    store = Store(tmp_path / "one")
    verify(store.path)
    for name in "de":
        manifest = store.manifest(name)
        assert manifest == {**Store(tmp_path / "two").manifest(name), **_moments(manifest)}
        sparsities = manifest["matrix_sparsity"]
        assert manifest["allocation"] == rule and len(set(sparsities.values())) > 1
        expected = removed = 0
        for matrix, entry in manifest["matrices"].items():
            *lines, cols = entry["shape"]
            count = int(np.prod(lines))
            expected += count * int(cols * 0.6)
            removed += round(sparsities[matrix] * count * cols)
            assert entry["sparsity"] == pytest.approx(sparsities[matrix])
        assert removed == expected
    assert store.manifest("d")["matrix_sparsity"] != store.manifest("e")["matrix_sparsity"]


def _moments(manifest: dict) -> dict:
    return {key: manifest[key] for key in ("created", "seconds")}


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "ria+reconstruct"])
def test_any_method(method: str, llama: Path, tmp_path: Path):
    extract(open_base(str(llama)), DOMAINS, tmp_path / "s", method=method, allocation="rows", dtype=torch.float32)
    verify(tmp_path / "s")
    sparsities = {e["sparsity"] for e in Store(tmp_path / "s").manifest("d")["matrices"].values()}
    assert len(sparsities) > 2


# it stops after so many files have got their names: store.json, d's costs, e's costs, the note that the allocation is
# done; masks and journal of 3 blocks
@pytest.mark.parametrize(("files", "blocks"), [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 1), (8, 2), (9, 2), (10, 3)])
def test_interrupted_in_either_step_and_started_again(
    files: int, blocks: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base = open_base(str(llama))
    run = partial(
        extract, base, DOMAINS, method="wanda", allocation="rows", dtype=torch.float32, batch_tokens=48, routing=False
    )
    run(out=tmp_path / "whole")
    KilledOnce(monkeypatch, os, "replace", files + 1)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "store")
    monkeypatch.undo()
    read: list[str] = []
    fill, gradient = Base.fill, KilledOnce(monkeypatch, rows, "sampled_label_slopes", 0)

    def counting(self, model, wanted, targets):
        read.extend(target.split(".")[2] for target in targets.values() if "q_proj" in target and wanted(target))
        return fill(self, model, wanted, targets)

    monkeypatch.setattr(Base, "fill", counting)
    again = run(out=tmp_path / "store")
    assert gradient.calls == {1: 9, 2: 4}.get(files, 0), "of the domains whose costs are not kept"
    assert again.resumed_blocks == blocks
    # block 0 to rehearse what no run has rehearsed; the whole model for gradients unless the allocation is done; blocks
    # that are left, and block 0 to learn its output
    assert len(read) == (files < 5) + 3 * (files < 4) + 3 - blocks + (blocks > 0)
    assert _content(tmp_path / "store") == _content(tmp_path / "whole")
    assert not (tmp_path / "store/work").exists()


def test_a_row_of_another_matrix_sparsity_is_found(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    extract(base, DOMAINS[:1], tmp_path / "s", method="wanda", allocation="rows", dtype=torch.float32)
    file = tmp_path / "s/submodels/d/manifest.json"
    manifest = Store(tmp_path / "s").manifest("d")
    names, sparsities = zip(*manifest["matrix_sparsity"].items(), strict=True)
    write_json(file, {**manifest, "matrix_sparsity": dict(zip(names, sparsities[::-1], strict=True))})
    with pytest.raises(SubmodelError, match="keeps"):
        verify(tmp_path / "s")


def test_uniform_is_as_without(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    wanda(base, DOMAINS, tmp_path / "s")
    again = wanda(base, DOMAINS, tmp_path / "s", allocation="uniform")
    assert again.already == ["d", "e"] and "matrix_sparsity" not in again.manifests["d"]
    with pytest.raises(SubmodelError, match="another recipe"):
        wanda(base, DOMAINS, tmp_path / "s", allocation="rows")


@pytest.mark.parametrize("samples", [2, 5, 7])
def test_interrupted_between_gradients_and_started_again(
    samples: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After so many samples' gradients, 5 of the first domain and 4 of the second: a domain that is done stays done."""
    run = partial(wanda, open_base(str(llama)), DOMAINS, allocation="rows", batch_tokens=48)
    run(out=tmp_path / "whole")
    slopes = KilledOnce(monkeypatch, rows, "sampled_label_slopes", samples + 1)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "store")
    slopes.calls = 0
    run(out=tmp_path / "store")
    assert slopes.calls == (9 if samples < 5 else 4)
    assert _content(tmp_path / "store") == _content(tmp_path / "whole")
    assert not (tmp_path / "store/work").exists()


def _content(store: Path) -> list[object]:
    manifests = [Store(store).manifest(name) for name in "de"]
    return [(m["masks"]["sha256"], m["matrix_sparsity"]) for m in manifests]


@pytest.mark.parametrize("rule", [name for name, rule in ALLOCATIONS.items() if rule])
def test_what_does_not_fit_is_refused(rule: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = open_base(str(llama))
    with pytest.raises(SubmodelError, match="did you mean 'rows'"):
        wanda(base, DOMAINS, tmp_path / "s", allocation="row")
    with pytest.raises(SubmodelError, match="2:4 removes as much of every block"):
        wanda(base, DOMAINS, tmp_path / "s", allocation=rule, sparsity=NM(2, 4))
    monkeypatch.setattr(gradients.os, "sysconf", lambda name: 100)
    with pytest.raises(SubmodelError, match="GiB, this machine has .*: give --allocation uniform"):
        wanda(base, DOMAINS, tmp_path / "s", allocation=rule)
    monkeypatch.undo()
    empty = Samples("m", torch.empty(0, 0, dtype=torch.int64))
    with pytest.raises(SubmodelError, match="needs text"):
        extract(base, [empty], tmp_path / "s", method="magnitude", allocation=rule)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("rule", ["owl", "error", "loss"])
def test_a_removed_rule_says_what_to_take(rule: str, llama: Path, tmp_path: Path):
    with pytest.raises(SubmodelError, match=f"allocation {rule}: removed.*give rows or marginal"):
        wanda(open_base(str(llama)), DOMAINS, tmp_path / "s", allocation=rule)
