"""A store away from where it was made: where its base is looked for, its new place recorded, and a read-only store."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from submodel import cli
from submodel.base.opening import open_base
from submodel.cli import rebase as rebase_verb
from submodel.errors import SubmodelError
from submodel.store import Store, open_or_create
from submodel.store.base import HOME, open_store_base, rebase
from tests import serving, tiny


@pytest.fixture
def made(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models/tiny and a store of it, coder.store, made there with a relative reference."""
    monkeypatch.delenv(HOME, raising=False)
    folder = tmp_path / "made"
    shutil.copytree(llama, folder / "models/tiny")
    monkeypatch.chdir(folder)
    _store_of("models/tiny", Path("coder.store"))
    monkeypatch.chdir(tmp_path)
    return folder


def _store_of(reference: str, path: Path) -> None:
    base = open_base(reference)
    open_or_create(path, {"reference": reference, "sha256": base.sha256, "size_bytes": base.source.size_bytes})


def _base_of(path: Path, **options: Any) -> Path:
    return open_store_base(Store(path), **options).path.resolve()


def _forget_absolute(store: Path) -> None:
    """As stores were before the absolute path was recorded."""
    document = json.loads((store / "store.json").read_text())
    del document["base"]["absolute"]
    (store / "store.json").write_text(json.dumps(document))


def test_what_is_recorded(made: Path):
    base = Store(made / "coder.store").base
    assert list(base) == ["reference", "absolute", "sha256", "size_bytes"]
    assert base["reference"] == "models/tiny" and base["absolute"] == str(made / "models/tiny")


def test_a_relative_reference_from_another_directory(made: Path):
    assert _base_of(made / "coder.store") == made / "models/tiny"


def test_an_old_store_in_its_directory(made: Path, monkeypatch: pytest.MonkeyPatch):
    _forget_absolute(made / "coder.store")
    monkeypatch.chdir(made)
    base = open_store_base(Store(Path("coder.store")))
    assert base.reference == "models/tiny" and base.path == Path("models/tiny")


@pytest.mark.parametrize("place", ["coder.store/models/tiny", "models/tiny", "coder.store/tiny", "tiny"])
def test_a_base_beside_a_moved_store(place: str, made: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.mkdir()
    (made / "coder.store").rename(moved / "coder.store")
    (moved / place).parent.mkdir(parents=True, exist_ok=True)
    (made / "models/tiny").rename(moved / place)
    assert _base_of(moved / "coder.store") == moved / place


@pytest.mark.parametrize("place", ["renamed", "qwen/renamed"])
def test_a_moved_base_under_the_home_of_bases(place: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "bases"
    tiny.save("qwen2", home / "aaa-another")
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (made / "models/tiny").rename(home / place)
    monkeypatch.setenv(HOME, str(home))
    assert _base_of(made / "coder.store") == home / place


def test_a_gguf_file_under_the_home_of_bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tiny.save_gguf(tmp_path / "tiny.gguf")
    _store_of(str(file), tmp_path / "store")
    (tmp_path / "bases/gguf").mkdir(parents=True)
    moved = file.rename(tmp_path / "bases/gguf/other-name.gguf")
    (tmp_path / "bases/cut.gguf").write_bytes(moved.read_bytes()[:-64])
    monkeypatch.setenv(HOME, str(tmp_path / "bases"))
    assert _base_of(tmp_path / "store") == moved


def test_another_model_in_its_place_is_passed_over(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With other weights of the same size, which only their digest tells."""
    here = tmp_path / "here"
    shutil.copytree(made / "models/tiny", here / "models/tiny")
    weights = here / "models/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    monkeypatch.chdir(here)
    assert _base_of(made / "coder.store") == made / "models/tiny"
    shutil.rmtree(made / "models/tiny")
    with pytest.raises(SubmodelError) as refusal:
        open_store_base(Store(made / "coder.store"))
    assert "models/tiny has other weights (" in str(refusal.value)


def test_a_base_that_is_nowhere(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.rmtree(made / "models")
    store = made / "coder.store"
    with pytest.raises(SubmodelError) as refusal:
        open_store_base(Store(store))
    text = str(refusal.value)
    assert "\n" not in text and f"submodel rebase {store} BASE" in text and "--base" in text
    assert all(part in text for part in ("as models/tiny", "beside the store", str(made / "models/tiny"), HOME))
    monkeypatch.setenv(HOME, str(tmp_path / "bases"))
    with pytest.raises(SubmodelError, match=f"under {HOME}={tmp_path / 'bases'}"):
        open_store_base(Store(store))


def test_a_base_is_opened_once(made: Path, monkeypatch: pytest.MonkeyPatch):
    opened = {}
    base = open_store_base(Store(made / "coder.store"), opened=opened)
    monkeypatch.setattr("submodel.store.base.open_weights", None)
    assert open_store_base(Store(made / "coder.store"), opened=opened) is base
    assert open_store_base(Store(made / "coder.store"), base.reference, opened=opened) is base
    assert next(iter(opened)) == base.reference


def test_rebase(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = made / "coder.store"
    before = Store(store).base
    (made / "models/tiny").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path)
    rebase(store, "new")
    base = Store(store).base
    assert base == {**before, "reference": "new", "absolute": str(tmp_path / "new")}
    monkeypatch.chdir("/")
    assert _base_of(store) == tmp_path / "new"


def test_rebase_to_another_model_is_refused(made: Path, tmp_path: Path):
    store = made / "coder.store"
    before = (store / "store.json").read_bytes()
    other = tiny.save("qwen2", tmp_path / "other")
    for reference, message in ((other, "not the base"), (tmp_path / "nothing", "no such directory")):
        with pytest.raises(SubmodelError, match=message):
            rebase(store, str(reference))
    with Store(store).lock(), pytest.raises(SubmodelError, match="another process"):
        rebase(store, str(made / "models/tiny"))
    assert (store / "store.json").read_bytes() == before


def test_the_verb_rebase(made: Path, capsys: pytest.CaptureFixture[str]):
    p = argparse.ArgumentParser()
    p.set_defaults(json=True)
    rebase_verb.add_options(p)
    rebase_verb.run(p.parse_args([str(made / "coder.store"), str(made / "models/tiny")]))
    assert json.loads(capsys.readouterr().out)["base"]["reference"] == str(made / "models/tiny")


_guarded: list[Path] = []
_written: list[str] = []
_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    writes = event in _WRITES or (event == "open" and args[2] & 3)
    if _guarded and writes and any(str(arg).startswith(str(_guarded[0])) for arg in args):
        _written.append(f"{event} {args}")


sys.addaudithook(_audit)  # for good: there is no way to take it away


@pytest.fixture
def read_only(made: Path, texts: dict[str, Path]) -> Iterator[Path]:
    """A store with two sub-models that must not be written to; permissions do not bind root."""
    store = made / "coder.store"
    words = ["extract", str(made / "models/tiny"), "--out", str(store), "--samples", "6", "--seq-len", "32"]
    for name, file in texts.items():
        words += ["--calibration", f"{name}={file}:text"]
    assert cli.main(words) == 0
    (store / ".lock").unlink()
    files = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    _guarded.append(store)
    yield store
    written = list(_written)
    with Store(store).lock():  # what the guard is there to see
        pass
    _guarded.clear()
    assert len(_written) > len(written)
    _written.clear()
    (store / ".lock").unlink()
    assert not written and files == {file: file.stat().st_mtime_ns for file in store.rglob("*")}


def test_reading_writes_nothing(read_only: Path, tmp_path: Path):
    one, two = f"{read_only}@python", f"{read_only}@prose"
    held_out = tiny.write_jsonl(tmp_path / "held-out.jsonl", "other")
    for line in (
        f"list {read_only}",
        f"info {one}",
        f"verify {read_only}",
        f"verify {read_only} --calibration",
        f"compare {one} {two}",
        f"export {one} --out {tmp_path}/exported",
        f"generate {one} --prompt def --max-tokens 2",
        f"route {read_only} def",
        f"eval {one} --task perplexity:{held_out}:text --seq-len 32 --limit 2 --out {tmp_path}/rows",
        f"copy {one} --out {tmp_path}/copied",
    ):
        assert cli.main(line.split()) == 0, line


def test_serving_writes_nothing(read_only: Path):
    with serving.running(read_only) as server:
        assert server.url


def test_writing_to_a_read_only_store_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch):
    real = open

    def refuse(file: Any, mode: str = "r", *rest: Any) -> Any:
        if "w" in mode and str(file).startswith(str(made)):
            raise OSError(30, "Read-only file system", str(file))
        return real(file, mode, *rest)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(SubmodelError, match="Read-only file system.*make it writable"):
        rebase(made / "coder.store", str(made / "models/tiny"))
