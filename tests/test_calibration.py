"""Reading, splitting and packing text."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from submodel.calibration import LANGUAGES, is_held_out, load_samples, pack_documents, parse_spec, read_documents
from submodel.errors import SubmodelError
from tests import tiny


def test_the_same_rows_from_every_format(tmp_path: Path):
    rows = [{"id": i, "text": f"row {i}", "other": "x"} for i in range(5)]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.parquet"):
        found = read_documents(tmp_path / name, "text")
        assert [(d.row, d.text) for d in found] == [(i, f"row {i}") for i in range(5)]
        assert [d.text for d in read_documents(tmp_path / name)] == [d.text for d in found]  # `text` is the default
    (tmp_path / "a.txt").write_text("plain")
    assert [d.text for d in read_documents(tmp_path / "a.txt")] == ["plain"]


def test_a_source_tree_is_split_by_file(tmp_path: Path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    (tmp_path / "copy.py").write_text("x = 1\n")
    (tmp_path / "main.go").write_text("package main\n")
    (tmp_path / "bad.py").write_bytes(b"\xff\xfe")
    for skipped in (".git", "node_modules", "__pycache__", "site-packages"):
        (tmp_path / skipped).mkdir()
        (tmp_path / skipped / "x.py").write_text(f"# {skipped}")
    calibration = read_documents(tmp_path, "python")
    held_out = read_documents(tmp_path, "python", "held-out")
    assert len(calibration) + len(held_out) == 60  # the copy counts once
    assert not {d.text for d in calibration} & {d.text for d in held_out}
    assert all(is_held_out(d.text) for d in held_out) and held_out
    every = read_documents(tmp_path, None) + read_documents(tmp_path, None, "held-out")
    assert len(every) == 61
    with pytest.raises(SubmodelError, match="did you mean 'python'"):
        read_documents(tmp_path, "pyton")


def test_packing(texts: dict[str, Path]):
    tokenizer = tiny.byte_tokenizer()
    samples = load_samples("d", f"{texts['python']}:text", tokenizer, samples=9, seq_len=50, seed=0)
    provenance = samples.provenance
    assert samples.ids.shape == (9, 50) and provenance and provenance.tokens == 450
    again = load_samples("d", f"{texts['python']}:text", tokenizer, samples=9, seq_len=50, seed=0)
    other = load_samples("d", f"{texts['python']}:text", tokenizer, samples=9, seq_len=50, seed=1)
    assert again.provenance == provenance
    assert other.provenance and other.provenance.sha256_tokens != provenance.sha256_tokens
    # what is said to take part is what is in the samples
    used = read_documents(texts["python"], "text")
    rows = provenance.rows[str(texts["python"])]
    stream = tokenizer.decode(samples.ids.flatten())
    for row in rows:
        text = used[row].text
        assert any(text[at : at + 12] in stream for at in range(0, len(text) - 12))


def test_many_documents_take_part_and_long_ones_do_not_fill_the_budget(tmp_path: Path):
    tokenizer = tiny.byte_tokenizer()
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "abcdefgh" * 1000}) for _ in range(20)))
    documents = read_documents(tmp_path / "a.jsonl")
    samples = pack_documents("d", documents, tokenizer, samples=10, seq_len=64, seed=0, path="a")
    assert samples.provenance and samples.provenance.documents == 10
    whole = pack_documents("d", documents, tokenizer, samples=2000, seq_len=64, seed=0, path="a")
    assert whole.provenance and whole.provenance.documents == 20
    with pytest.raises(SubmodelError, match="tokens in it"):
        pack_documents("d", documents, tokenizer, samples=5000, seq_len=64, seed=0, path="a")


def test_specs(tmp_path: Path):
    (tmp_path / "odd:name").write_text("x")
    assert parse_spec(f"{tmp_path}/odd:name") == (tmp_path / "odd:name", None)
    assert parse_spec("a/b.jsonl:text") == (Path("a/b.jsonl"), "text")
    assert parse_spec("a/b.jsonl") == (Path("a/b.jsonl"), None)
    assert set(LANGUAGES) >= {"python", "java", "cpp", "javascript"}


@pytest.mark.parametrize(
    ("content", "column"), [("not json", None), ('["list"]', None), ('{"a": 1}', "a"), ('{"a": "x", "b": "y"}', None)]
)
def test_bad_rows(content: str, column: str | None, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(SubmodelError):
        read_documents(tmp_path / "a.jsonl", column)


def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = gzip.compress(b"some text that someone wrote\n" * 50)
    for name, content in (("cut.txt.gz", whole[:-12]), ("broken.txt.gz", whole[:20] + b"\xff" * 30)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SubmodelError, match="not UTF-8 text"):
            read_documents(tmp_path / name)
    (tmp_path / "half.jsonl").write_text('{"text": "ok"}\n{"text": "a \\ud83d"}\n')
    with pytest.raises(SubmodelError, match="row 1: half of a surrogate pair"):
        read_documents(tmp_path / "half.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.lib", None)
    with pytest.raises(SubmodelError, match=r"pip install submodel\[parquet\]"):
        read_documents(tmp_path / "a.parquet")
