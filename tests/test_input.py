"""Calibration input as people have it: marks, nulls, turns, pointers, links, pipes; read, counted or refused."""

import codecs
import gzip
import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from submodel import cli
from submodel.calibration import documents as documents_module
from submodel.calibration import parse_domains, read_documents, read_repository, read_text
from submodel.calibration import sets as sets_module
from submodel.calibration import trees as trees_module
from submodel.calibration.named_text import read_named_set
from submodel.calibration.repository import without_licence
from submodel.errors import SubmodelError

MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts_of(file: Path, column: str | None = None) -> list[str]:
    return [document.text for document in read_documents(file, column)]


# ---- encodings


@pytest.mark.parametrize("encoding", MARKS)
def test_a_byte_order_mark_says_the_encoding(encoding: str, tmp_path: Path):
    rows = MARKS[encoding] + '{"text": "né"}\r\n{"text": "b"}\n'.encode(encoding)
    (tmp_path / "a.jsonl").write_bytes(rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows))
    assert texts_of(tmp_path / "a.jsonl") == texts_of(tmp_path / "a.jsonl.gz") == ["né", "b"]
    (tmp_path / "a.txt").write_bytes(MARKS[encoding] + "né\r\nx".encode(encoding))
    assert texts_of(tmp_path / "a.txt") == ["né\nx"]
    (tmp_path / "tree").mkdir()
    licensed = "# Copyright 2020 Someone\n\nx = 'né'\n"
    (tmp_path / "tree" / "a.py").write_bytes(MARKS[encoding] + licensed.encode(encoding))
    assert _all_of(tmp_path / "tree") == {"a.py": "x = 'né'\n"}


def test_files_that_begin_with_a_mark_may_have_been_joined(tmp_path: Path):
    row = codecs.BOM_UTF8 + b'{"text": "a"}\n'
    (tmp_path / "a.jsonl").write_bytes(row + row)
    assert texts_of(tmp_path / "a.jsonl") == ["a", "a"]


def test_a_source_file_is_read_in_the_encoding_that_it_declares(tmp_path: Path):
    files = {
        "latin.py": "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"),
        "second.py": "#!/usr/bin/python\n# vim: set fileencoding=cp1251 :\nx = 'ж'\n".encode("cp1251"),
        "emacs.rb": "# coding: utf-8-unix\nx = 'é'\n".encode(),
        "undeclared.py": "x = 'é' # 2\n".encode("latin-1"),
        "unknown.py": b"# coding: klingon\nx = 1\n",
        "no_codec_of_text.py": b"# coding: hex\nx = 1\n",
        "third.py": "x = 1\ny = 2\n# coding: latin-1\nz = 'é'\n".encode("latin-1"),
        "image.py": b"\x89PNG\r\n\0\0\0",
        "zeros.py": b"x = 1\n\0\0",
        "half.py": codecs.BOM_UTF16_LE + b"x\0=\0\x00\xd8",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = _all_of(tmp_path)
    assert {name: text.splitlines()[-1] for name, text in found.items()} == {
        "latin.py": "x = 'é'", "second.py": "x = 'ж'", "emacs.rb": "x = 'é'"
    }  # fmt: skip
    assert _left_out(tmp_path) == {"not UTF-8": 2, "not KLINGON": 1, "not HEX": 1, "binary": 2, "not UTF-16": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9 and more", "not UTF-8 text"),
        (b"PK\x03\x04\0\0\0", "zero bytes in it"),
        (codecs.BOM_UTF16_LE + b"x", "not UTF-8 text"),
        (POINTER, "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
        (b"/annex/objects/SHA256E-s12--ab.txt\n", "git annex get"),
    ],
)
def test_a_text_file_that_is_none(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(content)
    _refused(lambda: read_documents(tmp_path / "a.txt"), said)


# ---- rows


def test_nulls_and_empty_rows_are_skipped_and_counted(tmp_path: Path):
    rows: list[dict[str, Any]] = [{"text": f"row {i}"} for i in range(1000)]
    rows[3], rows[7], rows[8], rows[999] = {"text": None}, {}, {"text": " \n"}, {"text": ""}
    text = read_text("t", f"{jsonl(tmp_path / 'a.jsonl', rows)}:text")
    assert len(text.documents) == 996 and text.about == {"left_out": {"null": 2, "empty": 2}}
    assert [document.row for document in text.documents[:7]] == [0, 1, 2, 4, 5, 6, 9]  # rows keep their numbers
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["a", "b"]
    assert "left_out" not in read_text("t", str(jsonl(tmp_path / "b.jsonl", [{"text": "a"}]))).about


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([{"text": None, "title": "a"}, {"text": "b", "title": "c"}], ["b"]),
        ([{"title": "a"}, {"text": "b", "title": "c"}], ["b"]),
        ([{"body": None, "id": 1}, {"body": "b", "id": 2}], ["b"]),
        ([{"body": "b", "note": None}], ["b"]),
        ([{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}], ["b"]),
        ([{"text": "a", "content": "b"}], ["a"]),
    ],
    ids=str,
)
def test_the_column_named_text_is_read_whatever_the_first_row_holds(rows: Any, text: list[str], tmp_path: Path):
    assert texts_of(jsonl(tmp_path / "a.jsonl", rows)) == text


@pytest.mark.parametrize(
    ("rows", "column", "said"),
    [
        ([{"text": None, "title": "a"}, {"text": None}], None, r"no text in it \(2 null\)"),
        ([{"a": "x"}, {"b": "y"}], None, "which column. it has a, b"),
        ([{"a": "x"}, {"a": "y"}], "text", "no column 'text'; it has a"),
        ([{"a": "x", "b": None}], "a,c", "no column 'c'; it has a, b"),
        ([{"text": "a"}, {"text": 7}], None, "row 1: column 'text' is neither text nor turns"),
        ([{"text": 7}, {"text": "a"}], None, "row 0: column 'text' is neither text nor turns"),
        ([{"text": ["a", "b"]}], "text", "neither text nor turns"),
    ],
    ids=str,
)
def test_columns_without_text_are_refused(rows: Any, column: str | None, said: str, tmp_path: Path):
    _refused(lambda: read_documents(jsonl(tmp_path / "a.jsonl", rows), column), said)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "[1]", "{", '"text"', "\0"])
def test_lines_that_are_no_rows(content: str, tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + content)
    _refused(lambda: read_documents(tmp_path / "a.jsonl"), "line 2: not")


def test_a_file_larger_than_any_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents_module, "LARGEST_TEXT", 50)
    monkeypatch.setattr(sets_module, "LARGEST_TEXT", 50)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x" * 100))
    _refused(lambda: read_documents(tmp_path / "a.txt.gz"), "more than 50 characters")
    _refused(lambda: read_documents(jsonl(tmp_path / "a.jsonl", [{"text": "x" * 100}])), "line 1: over 50")


# ---- conversations


TURNS = {
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
    "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
    "conversation": [{"role": "system", "content": [{"type": "text", "text": "s"}]}, {"role": "user", "content": "q"}],
}


@pytest.mark.parametrize("column", TURNS)
def test_turns_are_read_as_their_text(column: str, tmp_path: Path):
    file = jsonl(tmp_path / "a.jsonl", [{"id": 1, column: TURNS[column]}, {"id": 2, column: []}, {"id": 3}])
    for name in (None, column):
        assert texts_of(file, name) == ["s\n\nq"]
    plain = [{key: value if isinstance(value, str) else "s" for key, value in turn.items()} for turn in TURNS[column]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{column: plain}]), tmp_path / "a.parquet")
    assert texts_of(tmp_path / "a.parquet") == ["s\n\nq"]
    both = jsonl(tmp_path / "b.jsonl", [{"title": "t", column: TURNS[column]}])
    assert texts_of(both, f"title,{column}") == ["t\ns\n\nq"]


def test_what_of_a_turn_is_no_text_is_counted(tmp_path: Path):
    turns = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]},
        {"role": "tool", "content": "7"},
    ]
    text = read_text("t", str(jsonl(tmp_path / "a.jsonl", [{"messages": turns}])))
    assert [document.text for document in text.documents] == ["see\n\n7"]
    assert text.about["left_out"] == {"part of a turn without text": 2}
    half = [{"role": "user"}]
    _refused(lambda: read_documents(jsonl(tmp_path / "b.jsonl", [{"messages": half}]), "messages"), "role and content")


# ---- named sets


def test_a_null_of_a_named_set_is_not_written_as_a_word(tmp_path: Path):
    rows = [{"question": "a", "answer": "1"}, {"question": None, "answer": "2"}, {"question": "c", "answer": None}]
    (tmp_path / "gsm8k/main").mkdir(parents=True)
    file = jsonl(tmp_path / "gsm8k/main/train.jsonl", rows)
    text = read_named_set("math", tmp_path)
    assert [document.text for document in text.documents] == ["a\n1"] and text.about["left_out"] == {"null": 2}
    pair = {"translation": {"en": None, "fr": "b"}}
    (tmp_path / "tico19_fr_en").mkdir()
    jsonl(tmp_path / "tico19_fr_en/train.jsonl", [pair, {"translation": {"en": "a", "fr": "b"}}])
    assert len(read_named_set("translation", tmp_path).documents) == 1
    file.write_bytes(POINTER)
    _refused(lambda: read_named_set("math", tmp_path), "git lfs pull")


# ---- what is no file


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_pipe, _socket, _device], ids=["pipe", "socket", "device"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet", "a.txt.gz"])
def test_special_files_are_refused_by_name(name: str, make: Callable[[Path], None], tmp_path: Path):
    make(tmp_path / name)
    _refused(lambda: read_documents(tmp_path / name), "which is not read: write it to a file")
    [domain] = parse_domains([f"mine={tmp_path / name}"], {})
    _refused(domain.texts[0].read, "which is not read: write it to a file")


def test_special_files_of_a_tree_never_block(tmp_path: Path):
    _pipe(tmp_path / "a.py")
    _socket(tmp_path / "b.py")
    _device(tmp_path / "c.py")
    (tmp_path / "e.py").mkdir()
    (tmp_path / "real.py").write_text("x = 1\n")
    assert _all_of(tmp_path) == {"real.py": "x = 1\n"}
    assert _left_out(tmp_path) == {"special file": 2, "symbolic link": 1}


def test_files_too_large_or_without_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trees_module, "LARGEST_SOURCE", 100)
    (tmp_path / "large.py").write_text("x = 1\n" * 50)
    (tmp_path / "real.py").write_text("x = 1\n")
    (tmp_path / "huge.py").touch()
    os.truncate(tmp_path / "huge.py", 1 << 40)  # a sparse file
    assert _all_of(tmp_path) == {"real.py": "x = 1\n"} and _left_out(tmp_path) == {"too large": 2}


# ---- repositories


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git tree with a file that counts, links in and out of it, pointers, and a submodule."""
    root, outside = tmp_path / "repository", tmp_path / "outside"
    for folder in (root / "src", root / "linked", outside):
        folder.mkdir(parents=True)
    (outside / "secret.py").write_text("secret = 1\n")
    (root / "src/a.py").write_text("a = 1\n")
    (root / "ignored.py").write_text("ignored = 1\n")
    (root / ".gitignore").write_text("ignored.py\n")
    (root / "linked/b.py").write_text("b = 1\n")
    (root / "out.py").symlink_to(outside / "secret.py")
    (root / "relative.py").symlink_to("../outside/secret.py")
    (root / "inside.py").symlink_to("src/a.py")
    (root / "to_ignored.py").symlink_to("ignored.py")
    (root / "nowhere.py").symlink_to("nothing")
    (root / "folder").symlink_to(outside)
    (root / "weights.py").write_bytes(POINTER)
    (root / "old.py").write_bytes(b"version http://git-media.io/v/2\noid sha256:ab\nsize 3\n")
    (root / "annexed.py").write_bytes(b"/annex/objects/SHA256E-s12--ab.py\n")
    (root / "about_pointers.py").write_text('"""\nversion https://git-lfs.github.com/spec/v1\n"""\n')
    _git(root, "init", "-q")
    _git(root, "add", "-A")
    _git(outside, "init", "-q")
    _git(outside, "add", "-A")
    _git(outside, "commit", "-qm", "x")
    commit = _git(outside, "rev-parse", "HEAD")
    _git(root, "update-index", "--add", "--cacheinfo", f"160000,{commit},module")
    _git(root, "commit", "-qm", "x")
    (root / "module").mkdir()
    (root / "module/m.py").write_text("m = 1\n")
    return root


def test_nothing_is_followed_out_of_a_repository(repository: Path):
    assert _all_of(repository).keys() == {"src/a.py", "about_pointers.py"} | {"linked/b.py"}
    assert _left_out(repository) == {
        "symbolic link": 5, "submodule": 1, "Git LFS pointer": 2, "git-annex pointer": 1
    }  # fmt: skip


def test_a_folder_that_became_a_link_is_not_followed(repository: Path, tmp_path: Path):
    (tmp_path / "outside/b.py").write_text("stolen = 1\n")
    (repository / "linked/b.py").unlink()
    (repository / "linked").rmdir()
    (repository / "linked").symlink_to(tmp_path / "outside")
    assert "stolen" not in str(_all_of(repository)) and _left_out(repository)["symbolic link"] == 6


def test_a_link_that_lies_here_as_a_file(repository: Path):
    """As git writes them where a file system has none."""
    (repository / "out.py").unlink()
    (repository / "out.py").write_text("../outside/secret.py")
    assert "out.py" not in _all_of(repository)


def test_a_new_link_and_a_repository_within(repository: Path, tmp_path: Path):
    (repository / "new.py").symlink_to(tmp_path / "outside/secret.py")
    (repository / "nested").mkdir()
    _git(repository / "nested", "init", "-q")
    (repository / "nested/n.py").write_text("n = 1\n")
    assert "secret" not in str(_all_of(repository)) and "n = 1" not in str(_all_of(repository))
    assert _left_out(repository)["symbolic link"] == 6 and _left_out(repository)["submodule"] == 2


def test_a_tree_without_git_is_not_left_either(repository: Path, tmp_path: Path):
    subprocess.run(["rm", "-rf", str(repository / ".git")], check=True)
    (repository / "round").symlink_to(".")
    assert "secret" not in str(_all_of(repository))
    (repository / "src/c.py").write_text("c = 11\n")
    assert {document.source for document in read_documents(repository, "python")} <= {
        "src/a.py", "src/c.py", "about_pointers.py", "linked/b.py", "ignored.py", "module/m.py"
    }  # fmt: skip
    link = tmp_path / "named"
    link.symlink_to(repository)  # what is named itself is followed
    assert _all_of(link).keys() == _all_of(repository).keys()


def test_a_licence_behind_a_mark_is_cut(tmp_path: Path):
    assert without_licence("a.py", "# Copyright\nx = 1\n") == "x = 1\n"
    (tmp_path / "a.py").write_bytes(codecs.BOM_UTF8 + b"# Copyright\nx = 1\n")
    assert _all_of(tmp_path) == {"a.py": "x = 1\n"}


def test_what_was_left_out_is_on_the_screen_and_in_the_manifest(llama: Path, tmp_path: Path, capsys):
    rows: list[dict[str, Any]] = [{"text": f"some text of row {i}" * 4} for i in range(40)]
    rows[2] = {"text": None}
    file = jsonl(tmp_path / "a.jsonl", rows)
    words = ["extract", str(llama), "--domain", f"mine={file}", "--samples", "4", "--seq-len", "32", "--no-check"]
    assert cli.main([*words, "--out", str(tmp_path / "s")]) == 0
    assert f"  mine: left out of {file}: 1 null\n" in capsys.readouterr().err
    assert cli.main(["info", f"{tmp_path / 's'}@mine"]) == 0
    assert f"left out of {file}: 1 null\n" in capsys.readouterr().out
    assert cli.main(["info", f"{tmp_path / 's'}@mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["left_out"] == {"null": 1}
    assert cli.main(["verify", "--calibration", f"{tmp_path / 's'}@mine"]) == 0


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _parts(folder: Path) -> list[Any]:
    parts: list[Any] = []
    for split in ("calibration", "held-out"):
        try:
            parts.append(read_repository("x", str(folder), split))
        except SubmodelError as error:
            assert "none is left" in str(error)
    return parts


def _all_of(folder: Path) -> dict[str, str]:
    """File -> text of both parts of a repository."""
    return {document.source: document.text for part in _parts(folder) for document in part.documents}


def _left_out(folder: Path) -> dict[str, int]:
    return _parts(folder)[0].about["repository"]["left_out"]


def _refused(read: Callable[[], Any], said: str) -> None:
    with pytest.raises(SubmodelError, match=said) as error:
        read()
    assert "\n" not in str(error.value)
