"""Allocations in the job: uniform as without, after a kill, what is refused; test_rows.py has their maths."""

from functools import partial
from pathlib import Path

import pytest
import torch

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune import gradients
from submodel.prune.allocate import ALLOCATIONS, rows
from submodel.prune.sparsity import NM
from submodel.store import Store
from tests import tiny
from tests.kill import KilledOnce

DOMAINS = [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(4, 24, seed=1))]
wanda = partial(extract, method="wanda", dtype=torch.float32)


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
