"""Named sets, their stand-ins, mixtures."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.calibration import (
    ALIASES,
    DOMAINS,
    Budget,
    Domain,
    Samples,
    TextSource,
    load_domain,
    parse_domains,
    read_held_out,
)
from submodel.calibration.packing import share
from submodel.calibration.sets import NamedSet, read_set
from submodel.errors import SubmodelError
from submodel.store.calibration import stand_ins
from tests import tiny

# the sets of the paper's Table II, as it and as its code call them
PAPER = ("python_alpaca", "apps", "github_python", "openbookqa", "hellaswag", "commonsenseqa", "wmt14", "croissant")
PAPER += ("song_translation", "opus_books", "math_qa", "metamath_qa", "math_instruct", "math_orca", "code_text_java")
PAPER += ("code_text_javascript", "cpp_dataset", "apps_test", "code_search_net_java", "code_search_net_javascript")

CHOICES = {"text": ["a", "b"], "label": ["A", "B"]}
# a row of every set's columns, as far as its entry uses them
ROWS: dict[str, dict[str, Any]] = {
    "python_alpaca": {"instruction": "add", "input": "", "output": "x + y", "prompt": "add: x + y"},
    "apps": {"question": "add two", "solutions": '["x + y", "y + x"]'},
    "apps_test": {"solutions": '["x + y"]'},
    "github_python": {"content": "import os"},
    "openbookqa": {"question_stem": "why", "choices": CHOICES, "answerKey": "B"},
    "hellaswag": {"ctx": "he", "endings": ["runs", "sits"], "label": "1"},
    "commonsenseqa": {"question": "why", "choices": CHOICES, "answerKey": "B"},
    "croissant": {"text": "bonjour"},
    "song_translation": {"original_version": "la", "french_version": "lala"},
    "math_qa": {"Problem": "1+1", "options": "a ) 2", "Rationale": "two"},
    "metamath_qa": {"original_question": "1+1", "response": "2"},
    "math_instruct": {"instruction": "1+1", "output": "2"},
    "code_text": {"code": "int f() {}", "docstring": "does f"},
    "cpp_dataset": {"solution": "int main() {}"},
    "code_search_net": {
        "whole_func_string": "def f(): 1",
        "func_documentation_string": "f",
        "func_code_string": "def f(): 1",
    },
    "pair": {"translation": {"en": "cat", "fr": "chat"}},
    "question": {"question": "1+1", "answer": "2"},
    "text": {"text": "some text"},
}


def row_of(name: str) -> dict[str, Any]:
    kinds = {"wmt14": "pair", "opus_books": "pair", "math_orca": "question", "gsm8k": "question"}
    kind = next((k for k in ("code_text", "code_search_net") if name.startswith(k)), kinds.get(name, name))
    return ROWS.get(kind, ROWS["text"])


def write(folder: Path, file: str, rows: list[dict[str, Any]]) -> Path:
    target = folder / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return folder


def load(spec: str, folder: Path | None, *, own: dict[str, str] | None = None, **budget: Any) -> Samples:
    sizes = {"seq_len": 16, "samples": 4, **budget}
    return load_domain(parse_domain(spec, own or {}), tiny.byte_tokenizer(), Budget(**sizes), data_dir=folder)


def parse_domain(spec: str, own: dict[str, str]) -> Domain:
    return parse_domains([spec], own)[0]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_set_reads_its_own_columns(name: str, tmp_path: Path):
    source, row = DOMAINS[name].source, row_of(name)
    folder = write(tmp_path, f"{source.hub_file}.gz", [row] * 20)
    samples = load(name, folder)
    provenance = samples.provenance
    assert provenance and provenance.about["set"]["name"] == name and stand_ins(provenance.as_dict()) == []
    stream = tiny.byte_tokenizer().decode(samples.ids.flatten())
    used = [value for value in row.values() if isinstance(value, str) and len(value) > 4]
    assert any(value[:8] in stream for value in used) or not used
    with pytest.raises(SubmodelError, match="not the columns of"):
        load(name, write(tmp_path, f"{source.hub_file}.gz", [{"other": "x"}] * 20))


def test_the_catalogue_is_complete_and_pinned():
    assert set(PAPER) <= set(DOMAINS)
    assert {f"code_search_net_{lang}" for lang in ("python", "java", "javascript", "go", "ruby", "php")} <= set(DOMAINS)
    assert set(ALIASES.values()) <= set(DOMAINS) and not set(ALIASES) & set(DOMAINS)
    names = "python java cpp javascript math common-sense translation english".split()
    assert list(ALIASES) == names
    for name, entry in DOMAINS.items():
        revision = entry.source.revision
        assert revision is None or len(revision) == 40, name
        # for evaluation only: no problem of it may enter a calibration
        assert "humaneval" not in entry.source.hub.lower() and "multipl" not in entry.source.hub.lower()


@pytest.mark.parametrize("name", [name for name, entry in DOMAINS.items() if entry.source.stand_in])
def test_a_stand_in_is_said_to_be_one(name: str, tmp_path: Path):
    entry = DOMAINS[name]
    row = ROWS["code_search_net"] if entry.stand_in_text else row_of(name)
    folder = write(tmp_path, f"{entry.source.file}.gz", [row] * 20)
    provenance = load(name, folder).provenance
    assert provenance and entry.source.stand_in in stand_ins(provenance.as_dict())[0]
    own = write(tmp_path, entry.source.hub_file, [row_of(name)] * 8)
    (own / entry.source.hub_file).write_text(json.dumps(row_of(name)) + "\n")
    assert not read_set(entry.source, own).stand_in


def test_a_set_whose_start_only_may_be_read(tmp_path: Path):
    rows = [{"translation": {"en": "x" * 30, "fr": str(i)}} for i in range(10)]
    provenance = load("opus_books", write(tmp_path, "debian_docs_fr_en/train.jsonl.gz", rows)).provenance
    assert provenance and max(row for part in provenance.rows.values() for row in part) < 5


@pytest.mark.parametrize(
    ("whole", "weights", "found"),
    [(10, [1], [10]), (10, [1, 1, 1], [4, 3, 3]), (262_144, [2, 1, 1], [131_072, 65_536, 65_536]), (7, [5, 2], [5, 2])],
)
def test_shares_add_up(whole: int, weights: list[float], found: list[int]):
    assert share(whole, weights) == found


def test_a_share_of_no_token():
    with pytest.raises(SubmodelError, match="leave no token"):
        share(10, [1000, 1])


def test_a_mixture(tmp_path: Path):
    own: dict[str, str] = {}
    for letter in "abc":
        file = tmp_path / f"{letter}.jsonl"
        file.write_text("".join(json.dumps({"text": letter * (20 + i)}) + "\n" for i in range(40)))
        own[letter] = f"{file}:text"
    samples = load("mix=a:3+b+c:1.5", None, own=own, samples=11)
    assert samples.name == "mix" and samples.ids.shape == (11, 16)
    text = tiny.byte_tokenizer().decode(samples.ids.flatten())
    provenance = samples.provenance
    assert provenance and provenance.path == "a:3+b:1+c:1.5" and provenance.split == "mixture"
    shares = {part["name"]: part["tokens"] for part in provenance.parts}
    assert shares == {"a": 96, "b": 32, "c": 48} and sum(shares.values()) == provenance.tokens == 176
    for letter, tokens in shares.items():  # all but the ends of documents
        assert tokens - 6 <= text.count(letter) <= tokens
    first = [tiny.byte_tokenizer().decode(row)[1] for row in samples.ids]
    assert set(first[:4]) == {"a", "b", "c"}, "parts lie among each other"
    # a part takes the documents that it would take alone
    alone = load("a", None, own=own, samples=6).provenance
    assert alone and list(alone.rows.values()) == list(provenance.parts[0]["rows"].values())
    assert torch.equal(load("mix=a:3+b+c:1.5", None, own=own, samples=11).ids, samples.ids)
    assert not torch.equal(load("mix=a:3+b+c:1.5", None, own=own, samples=11, seed=1).ids, samples.ids)


def test_names():
    own = {"mine": "x.jsonl"}
    assert parse_domain("python", {}) == Domain("python", (("python", 1.0),))
    parts = (("python", 2.0), ("mine", 1.0))
    assert parse_domain("coder=python:2+mine", own) == Domain("coder", parts, (TextSource("mine", "x.jsonl"),))
    assert parse_domain("coder=python:2+mine", own).recipe == "python:2+mine:1"
    for spec, said in {
        "pyton": "did you mean 'python'",
        "a=python:2+jva": "did you mean 'java'",
        "python+java": "a name",
        "=python": "a name",
        "a=python:x": "above 0",
        "a=python:-1": "above 0",
        "a=python:inf": "above 0",
        "a=python+python": "twice",
        "humaneval": "unknown domain",
    }.items():
        with pytest.raises(SubmodelError, match=said) as found:
            parse_domain(spec, own)
        assert "\n" not in str(found.value)


def test_what_is_not_there_is_one_line(tmp_path: Path):
    for folder in (tmp_path, None):  # an empty directory; a hub out of reach
        with pytest.raises(SubmodelError, match=r"(no such file|cannot be had from the hub|install submodel)") as found:
            load("gsm8k", folder)
        assert "\n" not in str(found.value)
    with pytest.raises(SubmodelError, match="no text in it"):
        load("c4", write(tmp_path, "c4/train.jsonl.gz", [{"text": " "}]))
    with pytest.raises(SubmodelError, match="tokens in it"):
        load("gsm8k", write(tmp_path, "gsm8k/main/train.jsonl.gz", [ROWS["question"]]))


def test_files_of_a_hub_repository_are_read_at_the_revision(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    class Stream(list):
        def take(self, most: int) -> list:
            return self[:most]

    def load_dataset(*args: Any, **kwargs: Any) -> Stream:
        asked.append((args, kwargs))
        return Stream([{"text": str(i)} for i in range(5)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_set(NamedSet("s", "some/set", "cfg", "train", "0" * 40), None, most=3)
    assert len(found.rows) == 3 and found.revision == "0" * 40 and found.origin == f"some/set@{'0' * 40}/cfg/train"
    read_set(NamedSet("s", "some/set", None, "train", "1" * 40, files="train.jsonl"), None)
    assert asked[0] == (("some/set", "cfg"), {"split": "train", "revision": "0" * 40, "streaming": True})
    assert asked[1][0] == ("json",)
    assert asked[1][1]["data_files"] == f"hf://datasets/some/set@{'1' * 40}/train.jsonl"


@pytest.mark.data
@pytest.mark.parametrize("name", ALIASES)
def test_every_alias_has_real_text(name: str, data_dir: Path):
    samples = load(name, data_dir, samples=8, seq_len=256)
    assert samples.ids.shape == (8, 256)


def test_a_held_out_split_has_the_template_of_its_set(tmp_path: Path, monkeypatch):
    rows = [{"translation": {"en": "cat", "fr": "chat"}}, {"translation": {"en": "dog", "fr": "chien"}}]
    folder = write(tmp_path, "tico19_fr_en/test.jsonl.gz", rows)
    text = read_held_out("translation/test", folder)
    assert [d.text for d in text.documents] == [
        "#Text: cat #Translation: chat",
        "#Text: dog #Translation: chien",
    ]
    assert (text.name, text.split, text.path) == ("translation/test", "test", f"{folder}/tico19_fr_en/test.jsonl.gz")
    assert stand_ins(text.about) == ["wmt14 (wmt/wmt14) was not read but tico19_fr_en/test.jsonl"]
    # of a set that calibration may read half of, the other splits are read whole, and the split read here is no other
    write(tmp_path, "debian_docs_fr_en/test.jsonl.gz", rows)
    assert len(read_held_out("opus_books/test", folder).documents) == 2
    write(tmp_path, "math_qa/test.jsonl.gz", [row_of("math_qa")])
    assert read_held_out("math_qa/test", folder).path.endswith("math_qa/test.jsonl.gz")
    with pytest.raises(SubmodelError, match="tico19_fr_en/dev.jsonl"):
        read_held_out("translation/dev", folder)
    with pytest.raises(SubmodelError, match="only its train split"):
        read_held_out("apps/test", folder)
    # what is a path is read as one
    tiny.write_jsonl(tmp_path / "own.jsonl", "own", rows=3)
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "test").write_text("one text")
    monkeypatch.chdir(tmp_path)
    assert [d.text for d in read_held_out("math/test", folder).documents] == ["one text"]
    assert len(read_held_out("own.jsonl:text", folder).documents) == 3
