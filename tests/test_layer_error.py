"""Layer error against a literal computation, on every kind of model that can be measured, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from submodel import cli
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.report import table
from submodel.runtime import load
from submodel.store import Store
from submodel.tasks import evaluate, parse_task
from submodel.tasks.cell import Settings
from submodel.tasks.rows import Row
from tests import tiny

SETTINGS = Settings(tokens=160, seq_len=32)


def make_store(model: Path, out: Path, *methods: str) -> Path:
    for method in methods:
        samples = Samples(method.replace("+", "-"), tiny.ids(5, 24))
        extract(open_base(str(model)), [samples], out, method=method, dtype=torch.float32, routing=False)
    return out


@pytest.fixture(scope="module")
def store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layer-error") / "s.store"
    return make_store(llama, out, "magnitude", "wanda", "swaps", "wanda+reconstruct")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_jsonl(tmp_path_factory.mktemp("text") / "other.jsonl", "other")


def measured(out: Path, text: Path, *references: object, **options: Any) -> list[Row]:
    task = parse_task(f"layer-error:{text}:text")
    return list(evaluate([str(r) for r in references], [task], out / "rows.jsonl", SETTINGS, **options))


@torch.no_grad()
def literally(dense: Any, pruned: Any, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """||(W - W') x||^2 and ||W x||^2, added up product by product while the dense model runs."""
    slices = {}
    for name, weight in dense.named_parameters():
        if ".layers." in name and weight.dim() > 1:
            own = pruned.get_parameter(name)
            for a, b in zip(weight, own, strict=True) if weight.dim() == 3 else [(weight, own)]:
                slices[a.data_ptr()] = name, a.double(), b.double()
    sums = {name: [0.0, 0.0] for name, _, _ in slices.values()}
    product = functional.linear

    def linear(x: torch.Tensor, weight: torch.Tensor, *bias: Any) -> torch.Tensor:
        if weight.data_ptr() in slices:
            name, whole, left = slices[weight.data_ptr()]
            sums[name][0] += float((x.double() @ (whole - left).T).square().sum())
            sums[name][1] += float((x.double() @ whole.T).square().sum())
        return product(x, weight, *bias)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "linear", linear)
        dense(input_ids=ids)
    return {name: lost / whole for name, (lost, whole) in sums.items()}


def windows(reference: str, text: Path, tmp_path: Path) -> torch.Tensor:
    from submodel.tasks.cell import Cell
    from submodel.tasks.perplexity import text_of

    task = parse_task(f"layer-error:{text}:text")
    cell = Cell(task, load(reference), SETTINGS, tmp_path, frozenset(), lambda *_: None, lambda _: None)
    return text_of(cell)[0].ids


@pytest.mark.parametrize("name", ["wanda", "swaps", "wanda-reconstruct"])
def test_it_is_the_literal_computation(
    name: str, store: Path, llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    [row] = measured(tmp_path, text, f"{store}@{name}")
    dense, ids = load(str(llama)).model, windows(str(llama), text, tmp_path)
    expected = literally(dense, load(f"{store}@{name}").model, ids, monkeypatch)
    assert row.parts is not None and row.kinds is not None and len(expected) == 21
    np.testing.assert_allclose(row.parts, list(expected.values()), rtol=1e-3, atol=1e-6)
    assert row.value == pytest.approx(np.mean(row.parts), abs=1e-5) and row.low < row.value < row.high
    assert (row.metric, row.n, row.submodel) == ("layer error", 160, name)
    down = [error for matrix, error in expected.items() if "down_proj" in matrix]
    assert row.kinds["mlp.down_proj"] == pytest.approx(np.mean(down), rel=1e-3) and len(row.kinds) == 7


@pytest.mark.parametrize("family", ["gpt_neox", *tiny.MIXTURES])
def test_other_families(family: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fused matrices, biases, and experts, which count as one matrix."""
    model = tiny.save(family, tmp_path / "model")
    made = make_store(model, tmp_path / "s.store", "wanda")
    [row] = measured(tmp_path, text, f"{made}@wanda")
    dense, pruned = load(str(model)).model, load(f"{made}@wanda").model
    ids = windows(str(model), text, tmp_path)
    expected = literally(dense, pruned, ids, monkeypatch)
    assert row.parts is not None
    names = list(Store(made).manifest("wanda")["matrices"])
    assert sorted(row.parts) == pytest.approx(sorted(expected[name] for name in names), rel=1e-3)


def test_the_base_loses_nothing_and_rows_are_kept(store: Path, llama: Path, text: Path, tmp_path: Path):
    references = [llama, *(f"{store}@{name}" for name in ("magnitude", "wanda", "swaps"))]
    dense, *others = rows = measured(tmp_path, text, *references)
    assert (dense.value, dense.low, dense.high) == (0, 0, 0) and dense.parts == [0.0] * 21
    magnitude, wanda, swaps = (row.value for row in others)
    assert 0 < min(magnitude, wanda, swaps) and max(magnitude, wanda, swaps) < 1
    assert measured(tmp_path, text, *references) == []
    shown = table(rows, against="wanda")
    [change] = re.findall(r"^swaps +([+-]\d+\.\d)% \[", shown, re.M)
    assert float(change) == pytest.approx(100 * (swaps / wanda - 1), abs=0.06)
    assert "160 tokens of" in shown and re.search(r"^layer error .* self_attn\.q_proj .* mlp\.down_proj$", shown, re.M)
    assert re.search(r"^swaps +\d+\.\d% \[", table(rows, against="dense"), re.M)  # nothing to be a ratio of


def test_an_exported_directory_is_measured_with_its_base(store: Path, llama: Path, text: Path, tmp_path: Path):
    base = open_base(str(llama))
    export_directory(base, Store(store).masks("wanda"), tmp_path / "wanda")
    with pytest.raises(SubmodelError, match=r"50% of its weights are 0.*no base to compare with.*--base"):
        measured(tmp_path, text, tmp_path / "wanda")
    dense, exported = measured(tmp_path, text, llama, tmp_path / "wanda", base=str(llama))
    [stored] = measured(tmp_path, text, f"{store}@wanda")
    assert dense.value == 0 and exported.parts == stored.parts and exported.key != stored.key
    other = tiny.save("gpt_neox", tmp_path / "other")
    with pytest.raises(SubmodelError, match=r"^[^\n]*its own --base$"):
        measured(tmp_path, text, tmp_path / "wanda", base=str(other))


def test_refusals(store: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["eval", f"{store}@wanda", "--out", str(tmp_path / "r.jsonl"), "--seq-len", "32", "--limit", "2"]
    for more, said in [
        (["--task", "layer-error"], "on which text? give layer-error:PATH"),
        (["--task", f"layer-error:{text}:text", "--format", "int8"], "no --format"),
        (["--task", f"layer-error:{text}:text", "--tokens", "99999999", "--limit", "9999"], "tokens"),
    ]:
        assert cli.main([*words, *more]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
