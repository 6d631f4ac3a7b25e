"""Bits per byte: the same bytes for every tokenizer, pieces for tokens that are gone, tables across models."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from submodel.base.opening import open_base
from submodel.base.tokenizer_model import tokenizer_model
from submodel.calibration import Samples, Text, pack_documents, read_documents
from submodel.calibration.documents import Document
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.export.hf import export_directory
from submodel.extract.job import extract
from submodel.report import table
from submodel.runtime.vocabulary import TokenLimit
from submodel.store import Store
from submodel.tasks import evaluate, parse_task
from submodel.tasks.bits_per_byte import excerpts, window_nats
from submodel.tasks.cell import Settings
from submodel.tasks.rows import Row, read_rows
from tests import tiny, vocabularies
from tests.test_cut_export import save, vocabulary_of

SETTINGS = Settings(tokens=240, seq_len=40, dtype=torch.float32)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "held-out.jsonl"
    lines = [json.dumps({"text": "\n".join([*vocabularies.CODE.values(), "Größe 中文 😀"])}) for _ in range(3)]
    file.write_text("\n".join(lines))
    return file


def measure(models: list[str], text: Path, out: Path, settings: Settings = SETTINGS) -> list[Row]:
    return list(evaluate(models, [parse_task(f"bits-per-byte:{text}")], out, settings))


def test_it_is_that_of_transformers(tmp_path: Path, text: Path):
    model = save(tmp_path / "m", dtype=torch.float32)
    [row] = measure([str(model)], text, tmp_path / "rows.jsonl")
    parts, _ = excerpts(Text("t", read_documents(text), str(text)), 720, 120, 0)
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    expected: list[float] = []
    for part in parts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(part)["input_ids"]]])
        with torch.inference_mode():
            logits = plain(ids).logits[0, :-1]
        nats = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        expected.append(nats / math.log(2) / len(part.encode()))
    assert row.parts == pytest.approx(expected, rel=1e-4) and row.value == pytest.approx(np.mean(expected), rel=1e-4)
    assert (row.metric, row.n, len(parts)) == ("bits per byte", row.settings["bytes"], 6)
    assert row.low <= row.value <= row.high
    assert measure([str(model)], text, tmp_path / "rows.jsonl") == [], "measured already"


@pytest.mark.parametrize("seed", range(4))
def test_excerpts_are_whole_characters_of_one_size(seed: int):
    texts = vocabularies.random_texts(seed, 60)
    documents = [Document("f", number, t) for number, t in enumerate(texts)]
    parts, read = excerpts(Text("t", documents, "t"), 4000, 97, seed)
    assert all(94 <= len(part.encode()) <= 97 for part in parts) and 39 <= len(parts) <= 42
    whole = "".join(document.text + "\n" for document in read)
    assert whole.startswith("".join(parts)) and len(read) < len(documents)
    assert excerpts(Text("t", documents, "t"), 4000, 97, seed) == (parts, read)


def test_too_little_text():
    with pytest.raises(SubmodelError, match="an excerpt has 300"):
        excerpts(Text("t", [Document("f", 0, "x")], "t"), 900, 300, 0)
    parts, _ = excerpts(Text("t", [Document("f", 0, "x" * 700)], "t"), 90_000, 300, 0)
    assert len(parts) == 2


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, Path, list[Row]]:
    """A model, its cut, a sub-model with a vocabulary, and their rows."""
    folder = tmp_path_factory.mktemp("cut")
    model = save(folder / "m", dtype=torch.float32)
    base = open_base(str(model))
    vocabulary = vocabulary_of(model, 0.7)
    export_directory(base, {}, folder / "cut", vocabulary=vocabulary)
    extract(base, [Samples("d", tiny.ids(2, 8))], folder / "s", method="magnitude", routing=False)
    store = Store(folder / "s")
    recipe = {k: v for k, v in store.manifest("d").items() if k not in ("masks", "matrices", "format", "name")}
    store.add("v", store.masks("d"), recipe, vocabulary)
    references = [str(model), f"{folder}/s@d", f"{folder}/s@v", str(folder / "cut")]
    return folder, model, measure(references, text, folder / "rows.jsonl")


def test_every_model_is_measured_on_the_same_bytes(cut: tuple[Path, Path, list[Row]]):
    _, _, rows = cut
    assert len(rows) == 4 and len({json.dumps([row.data, row.settings]) for row in rows}) == 1
    dense, masked, kept, _ = rows
    assert kept.masks != masked.masks and kept.masks and kept.masks.startswith(masked.masks or "?")
    assert kept.parts != masked.parts and dense.parts != masked.parts


def test_tables_compare_models_of_other_tokens(cut: tuple[Path, Path, list[Row]]):
    folder, _, rows = cut
    shown = table(rows)
    assert "all models on the same bytes" in shown and shown.count("bits per byte") == 3
    name = f"{folder.name}/m dense"
    against = table(rows, against=name).split("all models on the same bytes")[1]
    difference = 100 * (rows[3].value / rows[0].value - 1)
    assert f"{folder.name}/cut dense" in against and f"{difference:+.1f}%" in against
    assert "same bytes" not in table(rows[:3])
    [_, bits, _] = table(rows[:1]).splitlines()[1].split(maxsplit=2)
    assert float(bits) == pytest.approx(rows[0].value, abs=1e-4)
    with pytest.raises(SubmodelError, match="no row of it"):
        table(rows, against="nobody")


@torch.inference_mode()
def test_a_vocabulary_of_all_tokens_costs_what_the_base_costs(tmp_path: Path):
    model = save(tmp_path / "m", rows=len(vocabularies.fast("qwen")), dtype=torch.float32)
    base = open_base(str(model))
    opened, window = base.load(), base.tokenizer("def f(x): return x")["input_ids"]
    rules = tokenizer_model(base.tokenizer, "m")
    every, some = (TokenLimit(torch.from_numpy(vocabulary_of(model, s).ids()), len(rules.tokens)) for s in (1.1, 0.1))
    assert len(every.ids) == len(rules.tokens) > len(some.ids)
    full = window_nats(opened, window)
    assert window_nats(opened, window, every, rules) == pytest.approx(full, rel=1e-5)
    assert window_nats(opened, window, some, rules) != pytest.approx(full, rel=1e-3)


def test_a_packed_head_of_some_rows_costs_what_the_full_one_does(cut: tuple[Path, Path, list[Row]], text: Path):
    """With the rows of a window beside it, tokens that are said again are those of the whole head."""
    folder, _, _ = cut
    settings = replace(SETTINGS, dtype=torch.bfloat16)
    [plain] = measure([f"{folder}/s@v"], text, folder / "plain.jsonl", settings)
    packed = replace(settings, dtype=None, weight_format="bf16")
    [head] = measure([f"{folder}/s@v"], text, folder / "packed.jsonl", packed)
    assert head.value == pytest.approx(plain.value, rel=2e-2) and head.parts != [0.0]
    assert all(np.isfinite(head.parts or [np.inf]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--decode"], "leave --decode out"),
        (["--seq-len", "4000", "--tokens", "8000"], "tokens"),
        (["--tokens", "21"], ""),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(
    tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    model = save(tmp_path / "m")
    file = tmp_path / "long.txt"
    file.write_text("x = 1\n" * 6000)
    given = ["--task", f"bits-per-byte:{file}", "--out", str(tmp_path / "rows.jsonl"), *options]
    given += [] if "--seq-len" in options else ["--seq-len", "20"]
    status = main(["eval", str(model), *given])
    assert status == (2 if words else 0)
    if words:
        assert words in capsys.readouterr().err.splitlines()[-1]
    else:  # one excerpt at least
        assert read_rows(tmp_path / "rows.jsonl")[0].n == 60


def test_text_that_was_read_is_refused(tmp_path: Path, text: Path):
    model = save(tmp_path / "m", dtype=torch.float32)
    base = open_base(str(model))
    samples = pack_documents(
        "d", read_documents(text), base.tokenizer, samples=4, seq_len=24, seed=0, path=str(text), split="all"
    )
    extract(base, [samples], tmp_path / "s", method="wanda", routing=False)
    with pytest.raises(SubmodelError, match="was calibrated on"):
        measure([f"{tmp_path}/s@d"], text, tmp_path / "rows.jsonl")
    # and so where its tokens were counted
    store = Store(tmp_path / "s")
    recipe: dict[str, Any] = {
        k: v for k, v in store.manifest("d").items() if k not in ("masks", "matrices", "format", "name")
    }
    counted = [dict(recipe["calibration"], name="d", share=1.0)]
    recipe |= {"calibration": None, "vocabulary": {"counted": counted}}
    store.add("v", store.masks("d"), recipe, vocabulary_of(model))
    with pytest.raises(SubmodelError, match="was calibrated on"):
        measure([f"{tmp_path}/s@v"], text, tmp_path / "rows.jsonl")
