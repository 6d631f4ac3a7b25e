"""What the verbs print where nobody sits at a terminal, and what they say of stores and words in common."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from submodel import cli
from submodel.cli import VERBS, describe
from submodel.cli.console import Bar, signs_of_life
from submodel.errors import SubmodelError
from submodel.runtime import load
from submodel.store import Store
from submodel.store import copy as copy_module
from tests import tiny


@pytest.fixture(scope="module")
def store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("console") / "s.store"
    words = ["extract", str(llama), "--method", "magnitude", "--name"]
    assert cli.main([*words, "mine", "--out", str(out)]) == 0
    assert cli.main([*words, "other", "--sparsity", "0.3", "--out", str(out)]) == 0
    return out


def test_a_store_without_a_name_is_said(store: Path, llama: Path, tmp_path: Path, capsys):
    for verb in (
        ["generate", str(store), "--prompt", "x"],
        ["eval", str(store), "--task", "humaneval", "--out", str(tmp_path / "r")],
    ):
        assert cli.main(verb) == 2
        assert capsys.readouterr().err.endswith(f"{store}: that is a store: give {store}@mine or {store}@other\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(store / "store.json", empty)
    with pytest.raises(SubmodelError, match="that is a store: it is empty"):
        load(str(empty))


def test_list_shows_one_sub_model(store: Path, capsys):
    assert cli.main(["list", f"{store}@mine"]) == 0
    out = capsys.readouterr().out
    assert "\nmine: magnitude" in out and "other" not in out
    assert cli.main(["list", f"{store}@mien"]) == 2
    assert "did you mean 'mine'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [13, 30], ids=["no leave", "read-only file system"])
def test_remove_from_a_store_that_cannot_be_written(number: int, store: Path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(copy_module.os, "replace", refuse)
    assert cli.main(["remove", f"{store}@other"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "make the store writable" in err and Store(store).names == ["mine", "other"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict", "utf-8"])
def test_any_text_can_be_written_in_any_encoding(encoding: str, tmp_path: Path):
    model = tiny.save("llama", tmp_path / "modèle-你")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "HF_HUB_OFFLINE": "1"}
    words = ["generate", str(model), "--prompt", "é", "--max-tokens", "20", "--temperature", "1"]
    run = "import sys; from submodel import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", run, *words], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stdout, done.stderr
    done = subprocess.run([sys.executable, "-c", run, "info", f"{model}@x"], capture_output=True, env=environment)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr


def test_a_line_whenever_nothing_was_said(capsys):
    with signs_of_life("submodel verify", every_s=0.05):
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and set(lines) == {"submodel verify: at work for 0 s"}
    with signs_of_life("submodel eval", every_s=0.05), Bar("extracting mine", "tokens") as bar:
        bar.update(300, 1000)
        time.sleep(0.3)
    assert capsys.readouterr().err.splitlines()[0] == "extracting mine: 30% of 1,000 tokens"
    with signs_of_life("submodel list", every_s=30):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "serve"])
def test_every_verb_shows_signs_of_life(verb: str, monkeypatch, capsys):
    """However long it takes and whatever it tells of its progress."""
    module = __import__(f"submodel.cli.{verb}", fromlist=["run"])
    monkeypatch.setattr(module, "add_options", lambda p: None)
    monkeypatch.setattr(module, "run", lambda args: time.sleep(0.2))
    monkeypatch.setattr(cli, "signs_of_life", lambda what: signs_of_life(what, every_s=0.03))
    assert cli.main([verb]) == 0
    assert f"submodel {verb}: at work for 0 s" in capsys.readouterr().err


def test_whether_words_in_common_matter():
    def lines(overlapping: int, problems: int) -> list[str]:
        sets = {"humaneval": {"problems": problems, "overlapping": overlapping}}
        return describe.overlapping({"contamination": {"words": 13, "rows": 1, "sets": sets}})

    assert lines(0, 164) == []
    assert lines(1, 164)[0].endswith("humaneval: 0.6% of a score at most, less than its interval: nothing to do")
    assert "30%, so a score on humaneval says little: measure another task, or calibrate" in lines(50, 164)[0]
