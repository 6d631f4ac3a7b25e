"""What calibration text shares with evaluation problems, and calibration text made again from its manifest."""

import json
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from submodel import cli
from submodel.calibration import Document, Problems, problem_text, rebuild
from submodel.calibration.contamination import LENGTH
from submodel.calibration.sets import NamedSet
from submodel.errors import SubmodelError
from submodel.report import table
from submodel.runtime import Loaded
from submodel.store import Store
from submodel.tasks.data import refuse_calibrated
from submodel.tasks.evaluate import problems_in
from submodel.tasks.rows import read_rows
from tests import tiny


def plain_runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[at : at + LENGTH]) for at in range(len(words) - LENGTH + 1)}


def sentences(count: int, words: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(12)]
    return [" ".join(rng.choices(vocabulary, k=words)) for _ in range(count)]


def test_overlaps_are_those_of_sets():
    """Against sets of tuples of words, over texts of many lengths that share pieces."""
    rng = random.Random(0)
    for seed in range(20):
        texts = sentences(30, rng.randint(1, 60), seed)
        problems = sentences(25, rng.randint(1, 60), seed + 100)
        for i in range(0, 25, 3):  # a piece of 10 to 16 words of a text, in other case and punctuation
            piece = " ".join(texts[i].split()[: rng.randint(10, 16)])
            problems[i] = f"Q: {problems[i]}\n\n({piece.upper()})! why?"
        found = Problems({"t": problems}).overlaps([Document("f", i, text) for i, text in enumerate(texts)])
        uses: dict[tuple[str, ...], int] = {}
        for problem in problems:
            for run in plain_runs(problem):
                uses[run] = uses.get(run, 0) + 1
        own = [plain_runs(text) for text in texts]
        telling = {run for run, n in uses.items() if n <= 10} & set().union(*own)
        overlapping = sum(bool(plain_runs(problem) & telling) for problem in problems)
        assert found["sets"] == {"t": {"problems": 25, "overlapping": overlapping}}
        assert found["rows"] == sum(bool(run & telling) for run in own)


def test_what_every_problem_begins_with_is_no_overlap():
    common = " ".join(f"shared{i}" for i in range(20))
    problems = [f"{common} {i}" for i in range(11)]
    document = Document("f", 0, common)
    assert Problems({"t": problems}).overlaps([document])["sets"]["t"]["overlapping"] == 0
    assert Problems({"t": problems[:10]}).overlaps([document])["sets"]["t"]["overlapping"] == 10
    assert Problems({"t": problems}).overlaps([])["rows"] == 0 and Problems({}).overlaps([document])["sets"] == {}


def test_what_a_problem_shows():
    row = {
        "prompt": "def f",
        "canonical_solution": "1",
        "test": "secret",
        "tests": "secret",
        "choices": {"text": ["a"]},
    }
    assert problem_text(row) == "def f\n1\na"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a set to calibrate on, and two to evaluate on that hold some of it."""
    root = tmp_path_factory.mktemp("data")
    texts = sentences(40, 30, 1)
    sets = {
        "gsm8k/main/train": [{"question": text, "answer": str(i)} for i, text in enumerate(texts)],
        "gsm8k/main/test": [{"question": q, "answer": "0"} for q in sentences(5, 30, 2)] + [
            {"question": texts[3], "answer": "3"}],
        "boolq/validation": [{"question": "x", "passage": "short", "answer": True}],
        "c4/train": [{"text": text} for text in sentences(40, 30, 3)],
    }  # fmt: skip
    for name, rows in sets.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_problems_in_a_data_directory(data: Path):
    found = problems_in(data)
    assert {name: len(problems) for name, problems in found.items()} == {"gsm8k/main/test": 6, "boolq/validation": 1}


@pytest.fixture(scope="module")
def store(llama: Path, data: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("provenance") / "s"
    base = ["extract", str(llama), "--seq-len", "32", "--out", str(out), "--data-dir", str(data)]
    budget = ["--tokens", "1600"]
    own = ["--calibration", f"own={texts['prose']}:text"]
    tree = Path(__file__).parent
    assert cli.main([*base, "--domain", "math", "--domain", "mix=math:2+english+own", *own, *budget]) == 0
    assert cli.main([*base, "--domain", f"mine={tree}:python", *own, *budget, "--skip-contamination"]) == 0
    apart = ["--shape", "document"]
    assert cli.main([*base, "--domain", "apart=english", *apart, "--samples", "7"]) == 0
    assert cli.main([*base, "--domain", "some=math+english", *apart, "--tokens", "333"]) == 0
    return out


def test_the_manifest_says_what_was_found(store: Path, capsys: pytest.CaptureFixture[str]):
    opened = Store(store)
    math = opened.manifest("math")["contamination"]
    assert (
        math["words"] == 13
        and math["sets"]["gsm8k/main/test"] == {"problems": 6, "overlapping": 1}
        and math["rows"] == 1
    )
    assert math["sets"]["boolq/validation"] == {"problems": 1, "overlapping": 0}
    assert opened.manifest("apart")["contamination"]["rows"] == 0
    assert "contamination" not in opened.manifest("mine")
    assert cli.main(["info", f"{store}@math"]) == 0
    assert "13 words in a row with 1 of 6 problems of gsm8k/main/test: 17%, so a score" in capsys.readouterr().out
    assert cli.main(["info", f"{store}@mix"]) == 0
    assert "part own: 400 tokens" in capsys.readouterr().out


def test_every_text_is_made_again(store: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["verify", "--calibration", str(store), "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)["checked"]
    assert list(checked) == ["math", "mix", "mine", "apart", "some"]
    assert all("digest" in line for line in checked.values())
    assert cli.main(["verify", "--calibration", f"{store}@mix"]) == 0


def test_moved_and_changed_data(store: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    moved = tmp_path / "moved"
    for file in data.rglob("*.jsonl"):
        target = moved / file.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    words = ["verify", "--calibration", f"{store}@mix", "--data-dir", str(moved)]
    assert cli.main(words) == 0
    lines = (moved / "c4/train.jsonl").read_text().splitlines()
    for changed, said in (
        ([line.replace("w1 ", "w2 ") for line in lines], "other text than then"),
        (lines[:-1], "other rows take part"),
    ):
        (moved / "c4/train.jsonl").write_text("\n".join(changed))
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
    calibration = Store(store).manifest("math")["calibration"]
    with pytest.raises(SubmodelError, match="other tokens"):
        rebuild({**calibration, "sha256_tokens": "0"}, tiny.byte_tokenizer(), data)


def test_a_sub_model_is_not_evaluated_on_a_part_of_its_mixture(store: Path, data: Path, tmp_path: Path, capsys):
    words = ["--out", str(tmp_path / "rows.jsonl"), "--seq-len", "32", "--tokens", "320"]
    for name in ("mix", "math"):
        task = f"perplexity:{data}/gsm8k/main/train.jsonl:question"
        assert cli.main(["eval", f"{store}@{name}", "--task", task, *words]) == 2
        assert "was calibrated on" in capsys.readouterr().err
    task = f"perplexity:{data}/gsm8k/main/test.jsonl:question"
    assert cli.main(["eval", f"{store}@mix", "--task", task, *words]) == 0


def test_a_set_without_a_configuration_is_known():
    """Its manifest does not name one."""
    held = SimpleNamespace(
        reference="s@x", manifest={"calibration": {"path": "p", "set": {"hub": "a/b", "split": "train"}}}
    )
    refuse_calibrated(cast(Loaded, held), NamedSet("p", "a/b", None, "test"), None)
    refuse_calibrated(cast(Loaded, held), NamedSet("p", "a/b", "en", "train"), None)
    with pytest.raises(SubmodelError, match="was calibrated on it"):
        refuse_calibrated(cast(Loaded, held), NamedSet("p", "a/b", None, "train"), None)


@pytest.mark.parametrize("kind", ["elsewhere", "renamed", "absolute"])
def test_a_text_is_known_wherever_it_lies(kind: str, store: Path, data: Path, tmp_path: Path, monkeypatch, capsys):
    """Calibration text is known by what it says, and other text under its name is none."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    own, base = tiny.write_jsonl(Path("own.jsonl"), "python"), ["--seq-len", "32"]
    asked = ["--calibration", f"own={own}:text", "--samples", "4", "--out", "s", *base]
    assert cli.main(["extract", str(Store(store).base["reference"]), *asked]) == 0
    monkeypatch.chdir(tmp_path)
    moved = {
        "elsewhere": Path("work/own.jsonl"),
        "renamed": Path("other.jsonl"),
        "absolute": tmp_path / "work/own.jsonl",
    }
    text = moved[kind]
    if kind == "renamed":
        text.write_bytes(Path("work/own.jsonl").read_bytes())
    task = ["--tokens", "320", "--out", "rows.jsonl", *base]
    assert cli.main(["eval", "work/s@own", "--task", f"perplexity:{text}:text", *task]) == 2
    assert "was calibrated on" in capsys.readouterr().err
    tiny.write_jsonl(Path("own.jsonl"), "prose")
    assert cli.main(["eval", "work/s@own", "--task", "perplexity:own.jsonl:text", *task]) == 0


def test_tables_say_what_was_a_stand_in(store: Path, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    rows = tmp_path / "rows.jsonl"
    task = ["--task", f"perplexity:{texts['python']}:text", "--out", str(rows), "--seq-len", "32", "--tokens", "320"]
    assert cli.main(["eval", f"{store}@mix", f"{store}@math", str(llama), *task]) == 0
    shown = capsys.readouterr().out
    assert "read as stand-ins, see submodel info: c4 (calibration of mix)\n" in shown
    assert table(read_rows(rows)) in shown
    (tmp_path / "data/c4").mkdir(parents=True)
    tiny.write_jsonl(tmp_path / "data/c4/validation.jsonl", "c4")
    task = ["--task", "perplexity:english/validation", "--data-dir", str(tmp_path / "data"), "--seq-len", "32"]
    assert cli.main(["eval", str(llama), *task, "--tokens", "320", "--out", str(rows)]) == 0
    assert "c4 (calibration of mix), c4 (text)\n" in capsys.readouterr().out


@pytest.mark.parametrize("removed", [{"form": "chat"}, {"weighting": "document"}])
def test_a_manifest_with_what_has_been_removed(
    removed: dict[str, str], store: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It is read as ever; only its text cannot be made again."""
    old = tmp_path / "old"
    shutil.copytree(store, old)
    file = old / "submodels/apart/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["calibration"] |= removed
    file.write_text(json.dumps(manifest))
    rows = ["--out", str(tmp_path / "rows"), "--limit", "2", "--seq-len", "32"]
    for words in (
        ["list", str(old)],
        ["info", f"{old}@apart"],
        ["verify", str(old)],
        ["eval", f"{old}@apart", "--task", f"perplexity:{texts['python']}:text", *rows],
    ):
        assert cli.main(words) == 0, words
    capsys.readouterr()
    assert cli.main(["verify", f"{old}@apart", "--calibration"]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "can no longer be rebuilt" in text and "removed" in text
