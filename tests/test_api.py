"""The public names: all there, documented, not loaded before they are used; and a session as a program writes it."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import submodel
from submodel.calibration import load_samples
from submodel.errors import SubmodelError
from tests import tiny


def test_every_public_name_is_there():
    assert {*submodel._HOMES, "SubmodelError"} == set(submodel.__all__)
    for name in submodel.__all__:
        assert not isinstance(getattr(submodel, name), ModuleType), name
    assert set(submodel.__all__) <= set(dir(submodel))


@pytest.mark.parametrize("name", submodel.__all__)
def test_every_public_name_is_documented(name: str):
    value = getattr(submodel, name)
    if not callable(value):  # SCORES, TASKS: tables, documented where they are used
        return
    assert inspect.getdoc(value), name
    if inspect.isfunction(value) and len(inspect.signature(value).parameters) > 2:
        assert "Args:" in (inspect.getdoc(value) or ""), name


def test_a_function_is_not_hidden_by_the_room_of_its_name():
    rooms = [name for name in submodel.__all__ if (Path(submodel.__file__).parent / name).is_dir()]
    assert set(rooms) >= {"extract", "export", "report", "serve"}
    script = "\n".join(
        ["import importlib, types, submodel"]
        + [f"importlib.import_module('submodel.{room}')" for room in rooms]
        + [f"assert isinstance(submodel.{room}, types.FunctionType), submodel.{room}" for room in rooms]
        + ["from submodel.report import table", "import submodel.store", "assert submodel.store.Store"]
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_does_not_wait_for_torch():
    script = "import sys; from submodel import cli; cli.parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_help_imports_no_verb():
    script = "import sys; from submodel import cli; cli.main(['--help'])"
    report = "import atexit, sys; atexit.register(lambda: print(*sorted(m for m in sys.modules if 'submodel' in m)))"
    done = subprocess.run([sys.executable, "-c", f"{report}\n{script}"], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    cli_modules = ["submodel.cli", "submodel.cli.console", "submodel.cli.options"]
    assert modules == ["submodel", *cli_modules, "submodel.errors", "submodel.lazy"]


@pytest.fixture(scope="module")
def store(llama: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("api") / "coder.store"
    base = submodel.open_base(str(llama))
    samples = [
        load_samples(name, f"{file}:text", base.tokenizer, samples=6, seq_len=32, seed=0)
        for name, file in texts.items()
    ]
    assert all(repr(one).count("\n") == 0 and len(repr(one)) < 200 for one in (base, *samples))
    submodel.extract(base, samples, out)
    return str(out)


def test_extract_takes_domains_by_name_and_text_that_was_read(llama: Path, texts: dict[str, Path], tmp_path: Path):
    prose = submodel.text_file(texts["prose"], "text", name="prose")
    read = submodel.calibrate(prose, str(llama), tokens=256, seq_len=32)
    lines: list[str] = []
    told: list[tuple[str, int, int]] = []
    settings: dict[str, Any] = {"method": "wanda", "tokens": 256, "seq_len": 32, "say": lines.append}
    planned = submodel.extract(str(llama), f"code={texts['python']}:text", tmp_path / "s", dry_run=True, **settings)
    assert planned.plan and planned.plan.lines[0].startswith("plan: wanda") and not (tmp_path / "s").exists()
    assert not lines and not planned.manifests
    result = submodel.extract(
        str(llama),
        [f"code={texts['python']}:text", read],
        tmp_path / "s",
        progress=lambda *step: told.append(step),
        **settings,
    )
    assert list(result.manifests) == ["code", "prose"] and result.plan and lines == result.plan.lines
    assert told[-1][0] == "extracting code, prose" and told[-1][1] == told[-1][2]
    assert "check" in result.manifests["code"] and "check" not in result.manifests["prose"]
    both = submodel.extract(str(llama), [f"code={texts['python']}:text", prose], tmp_path / "s", **settings)
    assert both.already == ["code", "prose"], "text that was read is the text of its domain"
    for given, why in (([], "no text to calibrate on"), (["code"], "unknown domain 'code'")):
        with pytest.raises(SubmodelError, match=why):
            submodel.extract(str(llama), given, tmp_path / "other", **settings)
    blind = submodel.extract(str(llama), [], tmp_path / "blind", method="magnitude", pattern="2:4")
    assert list(blind.manifests) == ["magnitude"] and blind.manifests["magnitude"]["pattern"] == "2:4"


def test_a_repository_of_one_file_is_extracted_without_a_check(llama: Path, sources: Path, tmp_path: Path):
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "a.py").write_text("".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(200)))
    result = submodel.extract(str(llama), f"lone={lone}", tmp_path / "s", method="wanda", tokens=256, seq_len=32)
    assert "check" not in result.manifests["lone"]


def test_a_session(store: str, llama: Path, tmp_path: Path):
    first, second = submodel.list_submodels(store)
    about = submodel.info(f"{store}@python")
    assert about == first and about.reference == f"{store}@python" and about.sparsity == 0.5
    assert (about.memory_bytes, about.removed) == ({}, None) or about.parameters
    assert dict(submodel.verify(store)).keys() == {"base", "python", "prose"}

    comparison = submodel.compare(first.reference, second.reference)
    assert 0 < comparison.whole.jaccard_distance < 1
    with pytest.raises(SubmodelError, match="given twice"):
        submodel.compare(store + "@python", store + "@python")

    text = tiny.write_jsonl(tmp_path / "held-out.jsonl", "other")
    settings: dict[str, Any] = {"limit": 3, "seq_len": 32}
    rows = tmp_path / "rows.jsonl"
    evaluation = submodel.evaluate([str(llama), first.reference], f"perplexity:{text}:text", rows, **settings)
    assert [row.submodel for row in evaluation] == ["dense", "python"] and len(evaluation.new) == 2
    again = submodel.evaluate([str(llama), first.reference], [f"perplexity:{text}:text"], rows, **settings)
    assert (again.new, len(again.already)) == ((), 2)
    unkept = submodel.evaluate(first.reference, f"perplexity:{text}:text", **settings)
    assert [row.value for row in unkept] == [evaluation.new[1].value]
    assert submodel.report(evaluation) == submodel.report(rows) == submodel.report([rows])
    assert "+" in submodel.report(rows, against="dense") or "-" in submodel.report(rows, against="dense")
    with pytest.raises(SubmodelError, match="seq_lem.*did you mean 'seq_len'"):
        submodel.evaluate(str(llama), f"perplexity:{text}:text", seq_lem=32)

    loaded = submodel.load(first.reference, weight_format="int8")
    pieces: list[str] = []
    written = submodel.generate(loaded, "def f", max_tokens=4, write=pieces.append)
    assert written == submodel.generate(first.reference, "def f", max_tokens=4, format="int8")

    out = submodel.export(first.reference, tmp_path / "out")
    assert submodel.generate(str(out), "def f", max_tokens=2)
    copied = submodel.copy([first.reference, second.reference], tmp_path / "copy.store")
    assert (copied.names, copied.already) == (("python", "prose"), ())
    assert submodel.copy(first.reference, tmp_path / "copy.store").already == ("python",)
    assert submodel.remove(f"{tmp_path}/copy.store@prose") == ["python"]
    for result in (about, comparison, evaluation, evaluation.new[0], loaded, copied, submodel.Store(Path(store))):
        assert "\n" not in repr(result) and len(repr(result)) < 300, repr(result)
        assert not dataclasses.is_dataclass(result) or result.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_sizes_and_losses_of_a_sub_model(store: str, tmp_path: Path):
    submodel.copy(f"{store}@python", tmp_path / "s")
    file = tmp_path / "s/submodels/python/manifest.json"
    manifest = json.loads(file.read_text())
    matrices = manifest["matrices"].values()
    weights = sum(entry["shape"][0] * entry["shape"][1] for entry in matrices)
    check = {"perplexity": 11.0, "base_perplexity": 10.0, "tokens": 1000}
    file.write_text(json.dumps(manifest | {"parameters": 2 * weights, "check": check}))
    about = submodel.info(f"{tmp_path}/s@python")
    assert about.removed is not None and about.removed == pytest.approx(0.25, abs=0.002)
    assert about.held_out and about.held_out.loss == pytest.approx(0.0953, abs=1e-4)
    words = sum(entry["shape"][0] * -(-entry["shape"][1] // 64) for entry in matrices)
    kept = 2 * weights * (1 - 2 * about.removed)
    assert about.memory_bytes["bf16"] == pytest.approx(kept + 8 * words + 2 * weights, abs=2)
    assert about.memory_bytes["bf16"] > about.memory_bytes["int8"] >= about.memory_bytes["int4"]  # narrow matrices


def test_memory_is_what_packing_takes(store: str, tmp_path: Path):
    submodel.copy(f"{store}@python", tmp_path / "s")
    file = tmp_path / "s/submodels/python/manifest.json"
    loaded = submodel.load(f"{store}@python")
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"parameters": parameters}))
    for form, expected in submodel.info(f"{tmp_path}/s@python").memory_bytes.items():
        model = submodel.load(f"{store}@python", weight_format=form).model
        packed = [part for module in model.modules() for part in [getattr(module, "packed", None)] if part is not None]
        tensors = [*model.parameters(), *(tensor for part in packed for tensor in part.tensors.values())]
        sizes = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
        overhead = sum(64 + part.starts.nbytes for part in packed if part.starts is not None)
        padded = 1.0 if form == "bf16" else 1.8  # rows of a tiny model padded to 64 columns
        assert 0.9 * expected < sum(sizes.values()) - overhead < 1.05 * padded * expected, form


ROOT = Path(__file__).parent.parent


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of Python files, some of which are held out."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(40):
        lines = [f"def f{number}_{line}(x):\n    return x + {line * number}\n" for line in range(12)]
        (folder / f"m{number}.py").write_text("\n".join(lines))
    return folder


def test_the_notebook_runs(llama: Path, sources: Path, tmp_path: Path, monkeypatch, capsys):
    document = json.loads((ROOT / "examples/coder.ipynb").read_text())
    assert document["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in document["cells"] if cell["cell_type"] == "code")
    monkeypatch.setenv("SUBMODEL_MODEL", str(llama))
    monkeypatch.setenv("SUBMODEL_SOURCES", str(sources))
    monkeypatch.setenv("SUBMODEL_WORK", str(tmp_path))
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell.replace("8192, 512", "512, 32"), f"cell {number}", "exec"), names)
    out = capsys.readouterr().out
    assert "50% of the matrices' weights removed" in out and "Jaccard distance" in out
    assert (tmp_path / "exported/config.json").is_file()


def test_the_guide_runs(llama: Path, sources: Path, tmp_path: Path, monkeypatch, capsys):
    page = (ROOT / "docs/guide/python.md").read_text()
    assert len(page.split()) <= 800
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-directory").symlink_to(llama)
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    for given, here in (
        ("32_768", "256"),
        ("8192", "64"),
        ("seq_len=512", "seq_len=32"),
        ("max_tokens=32", "max_tokens=2"),
    ):
        assert given in code
        code = code.replace(given, here)
    code = code.replace("tokens=256", "tokens=256, seq_len=32")
    exec(compile(code, "python.md", "exec"), {})
    assert (tmp_path / "exported").is_dir() and submodel.list_submodels("other.store") == []
