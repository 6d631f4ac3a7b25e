"""The command line as a user meets it: a whole session, and bad input in one line with exit status 2."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from submodel import cli
from submodel.cli.console import Bar
from submodel.errors import SubmodelError
from submodel.runtime import load
from submodel.tasks.sandbox import open_sandbox
from tests import tiny


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def extract_options(llama: Path, texts: dict[str, Path], out: Path) -> list[object]:
    calibration = [word for name, file in texts.items() for word in ("--calibration", f"{name}={file}:text")]
    return [
        "extract",
        llama,
        *calibration,
        "--out",
        out,
        "--samples",
        6,
        "--seq-len",
        32,
        "--method",
        "wanda",
        "--no-check",
    ]


@pytest.fixture(scope="module")
def store(llama: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "coder.store"
    assert cli.main([str(word) for word in extract_options(llama, texts, out)]) == 0
    assert cli.main(["extract", str(llama), "--method", "magnitude", "--out", str(out)]) == 0
    return out


def test_a_session(store: Path, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    status, out, _ = run(capsys, "list", store)
    assert status == 0 and [line.split(":")[0] for line in out.splitlines()[1:]] == ["python", "prose", "magnitude"]
    status, out, _ = run(capsys, "info", f"{store}@prose")
    assert status == 0 and "bits a weight against python" in out and "192 tokens" in out
    status, out, _ = run(capsys, "verify", store)
    assert status == 0 and "rows of exact sparsity" in out
    status, out, _ = run(capsys, "compare", f"{store}@python", f"{store}@prose", f"{store}@magnitude")
    assert status == 0 and len(re.findall(r": 0\.\d+, 0\.\d+ differ\n", out)) == 3 and "mlp.down_proj" in out

    held_out = tiny.write_jsonl(tmp_path / "held-out.jsonl", "other")
    models = [llama, f"{store}@python", f"{store}@prose"]
    options = ["--task", f"perplexity:{held_out}:text", "--out", tmp_path / "rows.jsonl", "--limit", 5, "--seq-len", 32]
    status, out, _ = run(capsys, "eval", *models, *options)
    assert status == 0 and [line.split()[0] for line in out.splitlines()[1:4]] == ["dense", "python", "prose"]
    status, _, _ = run(capsys, "eval", *models, f"{store}@magnitude", *options)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["submodel"] for row in rows] == ["dense", "python", "prose", "magnitude"]
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 5 * 31 for row in rows)
    status, table, _ = run(capsys, "report", tmp_path / "rows.jsonl")
    assert status == 0 and "magnitude" in table
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    for part, name in ((lines[:2], "one.jsonl"), (lines[2:], "two.jsonl")):
        (tmp_path / name).write_text("".join(part))
    assert run(capsys, "report", tmp_path / "one.jsonl", tmp_path / "two.jsonl")[1] == table
    assert run(capsys, "report", "--markdown", tmp_path / "two.jsonl")[1].startswith("| sub-model |")

    status, out, _ = run(capsys, "generate", f"{store}@python", "--prompt", "def f", "--max-tokens", 5)
    assert status == 0
    status, document, _ = run(capsys, "generate", f"{store}@python", "--prompt", "def f", "--max-tokens", 5, "--json")
    assert json.loads(document)["text"] == out.removesuffix("\n")


def test_json_is_one_document(store: Path, capsys):
    for words in (["list", store], ["info", f"{store}@python"], ["verify", store]):
        status, out, _ = run(capsys, *words, "--json")
        assert status == 0 and isinstance(json.loads(out), dict)


def test_list_and_info_say_memory_and_what_was_lost(store: Path, tmp_path: Path, capsys):
    assert run(capsys, "copy", f"{store}@python", "--out", tmp_path / "s")[0] == 0
    file = tmp_path / "s/submodels/python/manifest.json"
    check = {"perplexity": 11.0, "base_perplexity": 10.0, "tokens": 1000}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"parameters": 100_000, "check": check}))
    for words in (["list", tmp_path / "s"], ["info", f"{tmp_path / 's'}@python"]):
        _, out, _ = run(capsys, *words)
        assert re.search(r"memory: \d+ MB in bf16, \d+ MB in int8, \d+ MB in int4", out)
        assert re.search(r"removed: \d+\.\d% of all 100,000 parameters", out)
        assert "held-out text: perplexity 11.000, of the base 10.000 (+0.095 nats a token, 1,000 tokens)" in out
    document = json.loads(run(capsys, "list", tmp_path / "s", "--json")[1])
    assert document["check"] == {"python": check} and document["memory_bytes"]["python"]["bf16"] > 0


def test_progress_without_a_terminal(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr("submodel.cli.console.time.monotonic", lambda: now)
    with Bar("extracting python", "tokens") as bar:
        for now in range(0, 100, 10):
            bar.update(1000 + 10 * now, 3000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "extracting python: 43% of 3,000 tokens, 3 min left" and len(lines) == 3
    with Bar("", "") as bar:
        for now in range(0, 60, 10):
            bar.named("python on stdlib", now, 60)
        bar.named("java on stdlib", 1, 60)
    assert capsys.readouterr().err.splitlines() == ["python on stdlib: 50% of 60, 30 s left"]


@pytest.mark.parametrize("more", [
    [], ["--held-out", "TEXT", "--sparsity", 0.3], ["--held-out", "TEXT", "--domain", "python", "--domain", "java"],
    ["--held-out", "TEXT", "--max-loss", -1], ["--held-out", "TEXT", "--dry-run"],
], ids=str)  # fmt: skip
def test_max_loss_is_checked_before_text_is_read(
    more: list[object], llama: Path, texts: dict[str, Path], tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.setattr("submodel.calibration.load_domain", lambda *_, **__: pytest.fail("text was read"))
    words = [f"{texts['prose']}:text" if word == "TEXT" else word for word in more]
    options = extract_options(llama, {"python": texts["python"]}, tmp_path / "s")
    result = run(capsys, *options, "--max-loss", 0.1, *words)
    _refused(result)
    assert "--max-loss" in result[2]


@pytest.mark.parametrize("shards", [None, "20KB"])
def test_export_is_bit_identical(shards: str | None, texts: dict[str, Path], tmp_path: Path, capsys):
    model = tiny.save("qwen2", tmp_path / "model", torch.bfloat16, **({"max_shard_size": shards} if shards else {}))
    store = tmp_path / "store"
    assert run(capsys, *extract_options(model, texts, store))[0] == 0
    status, _, _ = run(capsys, "export", f"{store}@prose", "--out", tmp_path / "out")
    assert status == 0
    ours = load(f"{store}@prose").model
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = tiny.ids(2, 24)
    assert plain.dtype == ours.dtype == torch.bfloat16
    assert torch.equal(plain(ids).logits, ours(ids).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a b")["input_ids"]
    names = {f.name for f in model.iterdir()}
    assert names == {f.name for f in (tmp_path / "out").iterdir()}
    status, _, err = run(capsys, "export", f"{store}@prose", "--out", tmp_path / "out")
    assert status == 2 and "exists already" in err


def test_a_moved_base(texts: dict[str, Path], tmp_path: Path, capsys):
    model = tiny.save("llama", tmp_path / "model")
    assert run(capsys, *extract_options(model, texts, tmp_path / "store"))[0] == 0
    moved = model.rename(tmp_path / "moved")
    status, _, err = run(capsys, "verify", tmp_path / "store")
    assert status == 2 and "--base" in err
    assert run(capsys, "verify", tmp_path / "store", "--base", moved)[0] == 0
    other = tiny.save("qwen2", tmp_path / "other")
    status, _, err = run(capsys, "verify", tmp_path / "store", "--base", other)
    assert status == 2 and "not the base" in err


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


BAD_MODELS = {
    "no such directory": lambda folder: shutil.rmtree(folder),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "a corrupt shard": lambda folder: _cut(folder / "model.safetensors"),
    "a shard that is no safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 50),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "not a language model": lambda folder: (folder / "config.json").write_text('{"model_type": "vit"}'),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models(case: str, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    folder = Path(shutil.copytree(llama, tmp_path / "copy"))
    BAD_MODELS[case](folder)
    _refused(run(capsys, *extract_options(folder, texts, tmp_path / "store")))
    assert not (tmp_path / "store").exists()


BAD_OPTIONS = {
    "an unknown domain": ["--domain", "pyton"],
    "an unknown method": ["--method", "wander"],
    "an unknown allocation": ["--allocation", "owls"],
    "an allocation of a pattern": ["--allocation", "owl", "--pattern", "2:4"],
    "sparsity 1.5": ["--sparsity", "1.5"],
    "pattern 3:2": ["--pattern", "3:2"],
    "sparsity against pattern": ["--pattern", "2:4", "--sparsity", "0.3"],
    "fewer tokens than asked": ["--samples", "100000"],
    "no samples": ["--samples", "0"],
    "a word for a number": ["--samples", "many"],
    "an empty file": ["--calibration", "empty=EMPTY"],
    "no such file": ["--calibration", "x=/nowhere/x.jsonl"],
    "no such column": ["--calibration", "x=TEXT:body"],
    "not a name": ["--calibration", "TEXT"],
    "a bad sub-model name": ["--domain", "python", "--name", "a/b"],
    "too many names": ["--domain", "python", "--name", "a", "--name", "b"],
    "an unknown option": ["--sparsty", "0.5"],
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case: str, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    fill = {"EMPTY": str(tmp_path / "empty.jsonl"), "TEXT": str(texts["python"])}
    options = BAD_OPTIONS[case]
    for word, value in fill.items():
        options = [option.replace(word, value) for option in options]
    _refused(run(capsys, *extract_options(llama, texts, tmp_path / "store"), *options))
    assert not (tmp_path / "store").exists()


def _refused(result: tuple[int, str, str], planned: bool = False) -> None:
    """One line that says why; after the plan, where the work had begun."""
    status, out, err = result
    assert (status, out) == (2, "")
    if planned:
        plan, why = err[: err.rindex("submodel extract:")], err[err.rindex("submodel extract:") :]
        assert plan.startswith("plan: ") and all(line.startswith("  ") for line in plan.splitlines()[1:]), plan
        err = why
    assert err.count("\n") == 1 and err.startswith("submodel"), err
    assert "Traceback" not in err


def test_bad_references(store: Path, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    rows = ["--out", tmp_path / "rows.jsonl"]
    for words in (
        ["info", f"{store}@pithon"],
        ["info", store],
        ["list", llama],
        ["compare", f"{store}@python"],
        ["compare", f"{store}@python", f"{store}@python"],
        ["eval", llama, "--task", "perplexiti:x", *rows],
        ["eval", llama, "--task", "perplexity", *rows],
        [
            "eval",
            f"{store}@python",
            "--task",
            f"perplexity:{texts['python']}:text",
            "--limit",
            5,
            "--seq-len",
            32,
            *rows,
        ],
        ["report", tmp_path / "none.jsonl"],
        ["generate", f"{store}@none", "--prompt", "x"],
        ["extract", llama, "--out", tmp_path / "s"],
        ["no-such-verb"],
        ["generate", llama, "--prompt", ""],
        ["generate", llama, "--prompt", "x", "--max-tokens", 1 << 20],
        ["eval", llama, "--task", f"perplexity:{texts['python']}:text", "--seq-len", 1 << 20, *rows],
    ):
        _refused(run(capsys, *words))
    assert not any(tmp_path.iterdir())


def test_masks_that_were_measured_under_another_name(store: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    again = tmp_path / "again.store"
    shutil.copytree(store, again)
    manifest = json.loads((again / "submodels/magnitude/manifest.json").read_text())
    (again / "submodels/magnitude").rename(again / "submodels/first")
    (again / "submodels/first/manifest.json").write_text(json.dumps(manifest | {"name": "first"}))
    task = ["--task", f"perplexity:{texts['prose']}:text", "--limit", 2, "--seq-len", 32, "--out", tmp_path / "r.jsonl"]
    assert run(capsys, "eval", f"{store}@magnitude", *task)[0] == 0
    status, _, err = run(capsys, "eval", f"{again}@first", *task)
    assert status == 0 and "@first: its masks are those of magnitude, whose rows are in" in err


def test_sub_models_of_two_bases_are_not_compared(store: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    other = tiny.save("llama", tmp_path / "other", torch.bfloat16)
    assert run(capsys, *extract_options(other, texts, tmp_path / "s"))[0] == 0
    result = run(capsys, "compare", f"{store}@python", f"{tmp_path}/s@python")
    _refused(result)
    assert "compare sub-models of one base" in result[2]


def test_a_store_of_another_base(store: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    before = sorted(store.rglob("*"))
    other = tiny.save("qwen2", tmp_path / "other")
    result = run(capsys, *extract_options(other, texts, store), "--name", "a", "--name", "b")
    _refused(result)
    assert "another base" in result[2] and sorted(store.rglob("*")) == before


def test_a_full_disk(llama: Path, texts: dict[str, Path], tmp_path: Path, capsys, monkeypatch):
    pwrite, calls = os.pwrite, 0

    def full(*args):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*args)

    monkeypatch.setattr(os, "pwrite", full)
    result = run(capsys, *extract_options(llama, texts, tmp_path / "store"))
    _refused(result, planned=True)
    assert "No space left" in result[2] and not (tmp_path / "store").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("size", ["48k", "72k"])
def test_a_disk_that_is_really_full(size: str, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"cannot mount: {mount.stderr.decode().strip()}")
    try:
        _refused(run(capsys, *extract_options(llama, texts, disk / "store")), planned=True)
        assert not any(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_command_line_page_is_the_help(capsys):
    page = Path(__file__).parent.parent / "docs/reference/cli.md"
    from tests.cli_page import render

    assert page.read_text() == render(), "run: python -m tests.cli_page > docs/reference/cli.md"


BAD_EVALUATIONS = {
    "an unknown task": ["--task", "humanevil"],
    "a task without its text": ["--task", "perplexity"],
    "text for a task with its own": ["--task", "humaneval:x"],
    "an unknown prompt form": ["--task", "translation:rhyme"],
    "no such data directory": ["--task", "humaneval", "--data-dir", "/nowhere"],
    "a data directory without the set": ["--task", "mbpp", "--data-dir", "FOLDER"],
    "a k above the samples": ["--task", "humaneval", "--samples", "2", "--k", "1,10", "--data-dir", "FOLDER"],
    "a k that is no number": ["--task", "humaneval", "--k", "one"],
    "many greedy samples": ["--task", "humaneval", "--samples", "3", "--temperature", "0", "--data-dir", "FOLDER"],
    "no slots": ["--task", "humaneval", "--slots", "0"],
}


@pytest.mark.parametrize("case", BAD_EVALUATIONS)
def test_bad_evaluations(case: str, llama: Path, tmp_path: Path, capsys):
    options = [str(tmp_path) if option == "FOLDER" else option for option in BAD_EVALUATIONS[case]]
    _refused(run(capsys, "eval", llama, "--out", tmp_path / "rows.jsonl", *options))
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_code_evaluation(llama: Path, tmp_path: Path, capsys):
    row = {"task_id": "T/0", "prompt": "def f():\n", "canonical_solution": "", "entry_point": "f"}
    folder = tmp_path / "humaneval"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps({**row, "test": "def check(f):\n    assert f() == 1\n"}) + "\n")
    options = ["--task", "humaneval", "--data-dir", tmp_path, "--max-tokens", 4, "--out", tmp_path / "rows.jsonl"]
    try:
        open_sandbox()
    except SubmodelError as error:
        pytest.skip(str(error))
    status, out, _ = run(capsys, "eval", llama, *options)
    assert status == 0 and re.search(r"^dense\s+0\.0% \[0\.0, \d+\.\d\]$", out, re.M), out
    assert "1 problems of humaneval" in out
    status, out, _ = run(capsys, "eval", llama, *options, "--json")
    again = json.loads(out)
    assert status == 0 and again["rows"] == [] and [row["metric"] for row in again["already"]] == ["pass@1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "--seed -1: give 0 to"),
        (["--seed", str(2**63)], "give 0 to"),
        (["--device", "nonsense"], "--device nonsense: not to be had here"),
        (["--calibration", "a=x", "--calibration", "a=y"], "two texts of one name"),
        (["--tokens", "auto", "--allocation", "marginals"], "did you mean 'marginal'"),
    ],
)
def test_options_that_no_run_can_have(words: list[str], said: str, llama: Path, tmp_path: Path, capsys):
    assert cli.main(["extract", str(llama), "--domain", "python", "--out", str(tmp_path / "s"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "s").exists()
