"""Sub-models from store to store: the same masks, weights, recipe and routing; what cannot be copied or removed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from submodel import cli
from submodel.router import profile
from submodel.runtime import load
from submodel.store import OWN_KEYS, Store
from tests import tiny


@pytest.fixture(scope="module")
def made(llama: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two masks, the second coded against the first, and a sub-model with weights of its own."""
    out = tmp_path_factory.mktemp("copies") / "made.store"
    given = [word for name, file in texts.items() for word in ("--calibration", f"{name}={file}:text")]
    short = ["--out", str(out), "--samples", "4", "--seq-len", "32"]
    assert cli.main(["extract", str(llama), *given, *short]) == 0
    fitted = ["--domain", "python", "--name", "fitted", "--method", "wanda+reconstruct"]
    assert cli.main(["extract", str(llama), *given, *fitted, *short]) == 0
    return out


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit status, and what was said on either stream."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out + err


def test_copies_are_the_same_and_stand_by_themselves(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    names = Store(made).names
    assert Store(made).manifest(names[1])["masks"]["reference"] == names[0]
    second, out = f"{made}@{names[1]}", tmp_path / "out.store"
    status, text = said(capsys, "copy", second, f"{made}@fitted", "--out", out)
    assert status == 0 and f"{out}@{names[1]}: wanda" in text
    there, mine = Store(made), Store(out)
    assert mine.base == there.base and set(mine.names) == {names[1], "fitted"}
    assert mine.manifest(names[1])["masks"]["reference"] is None
    for name in mine.names:
        old, new = there.manifest(name), mine.manifest(name)
        assert all(old[key] == new[key] for key in (old.keys() | new.keys()) - set(OWN_KEYS))
        assert old["masks"]["sha256"] == new["masks"]["sha256"] and old.get("weights") == new.get("weights")
        logits = [load(f"{store.path}@{name}").model(tiny.ids(1, 12)).logits for store in (there, mine)]
        assert torch.equal(*logits)
        for part in (name, None):
            theirs, ours = profile.read(there, part), profile.read(mine, part)
            assert (
                theirs and ours and theirs.languages == ours.languages and theirs.vectors.keys() == ours.vectors.keys()
            )
            assert all(np.array_equal(theirs.vectors[kind], ours.vectors[kind]) for kind in ours.vectors)
    assert said(capsys, "verify", out)[0] == 0
    before = sorted((file, file.stat().st_mtime_ns) for file in out.rglob("*.safetensors"))
    status, text = said(capsys, "copy", second, "--out", out)
    assert status == 0 and "there already" in text
    assert sorted((file, file.stat().st_mtime_ns) for file in out.rglob("*.safetensors")) == before
    assert said(capsys, "copy", second, "--out", out, "--name", "coder")[0] == 0
    assert Store(out).manifest("coder")["masks"]["reference"] in (names[1], "fitted")


def test_what_is_not_copied(made: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first, second, _ = (f"{made}@{name}" for name in Store(made).names)
    other = tiny.save("llama", tmp_path / "other", torch.bfloat16)
    given = ["--calibration", f"python={texts['python']}:text", "--samples", "4", "--seq-len", "32"]
    assert said(capsys, "extract", other, *given, "--out", tmp_path / "s")[0] == 0
    out = tmp_path / "out.store"
    for words, why in (
        ([first, f"{tmp_path}/s@python", "--name", "a", "--name", "b"], "a store has one base"),
        ([first, second, "--name", "x"], "give one each or none"),
        ([first, first], "two sub-models of one name"),
        ([first, "--name", "a/b"], "letters and digits"),
        ([f"{made}@nobody"], "unknown sub-model"),
        ([made], "give STORE@NAME"),
    ):
        status, text = said(capsys, "copy", *words, "--out", out)
        assert status == 2 and why in text and text.count("\n") == 1 and not out.exists(), text
    status, text = said(capsys, "copy", first, "--out", tmp_path / "s")
    assert status == 2 and "another base" in text and Store(tmp_path / "s").names == ["python"]
    assert said(capsys, "copy", first, "--out", out)[0] == 0
    status, text = said(capsys, "copy", second, "--out", out, "--name", Store(out).names[0])
    assert status == 2 and "another one is there" in text
    damaged = Path(shutil.copytree(made, tmp_path / "damaged"))
    file = damaged / "submodels" / Store(made).names[1] / "masks.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    status, text = said(capsys, "copy", f"{damaged}@{Store(made).names[1]}", "--out", tmp_path / "new")
    assert status == 2 and "damaged" in text and not (tmp_path / "new").exists()


def test_removing(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = Path(shutil.copytree(made, tmp_path / "store"))
    first, second, *_ = Store(store).names
    status, text = said(capsys, "remove", f"{store}@{first}")
    assert status == 2 and second in text and "are coded by their differences" in text and first in Store(store).names
    status, text = said(capsys, "remove", f"{store}@{second}", "--json")
    assert status == 0 and json.loads(text)["removed"] == second
    assert second not in Store(store).names and not list((store / "submodels").glob(f"*{second}*"))
    assert said(capsys, "verify", store)[0] == 0
    assert said(capsys, "remove", f"{store}@{second}")[0] == 2
    with Store(store).lock():
        assert "another process is writing" in said(capsys, "remove", f"{store}@fitted")[1]
