"""Studies: the plan, going on after a kill, failed cells, the table, bad files in one line."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from submodel import cli, study
from submodel.errors import SubmodelError
from submodel.store import Store
from submodel.study import launch
from submodel.study.cost import RATES, START_SECONDS, Work, estimate
from submodel.study.file import CALIBRATION, EVALUATION
from submodel.study.plan import words
from submodel.study.submit import Submit
from tests import tiny

FILE = """
title = "Tiny"
data = "data"
[models]
tiny = "MODEL"
[domains]
python = "python.jsonl:text"
prose = "prose.jsonl:text"
[calibration]
samples = 3
seq_len = 32
[prune]
methods = ["magnitude", "wanda"]
sparsities = [0.5, "2:4"]
[tasks.other]
task = "perplexity:other.jsonl:text"
limit = 3
seq_len = 32
[tasks.news]
task = "perplexity:news.jsonl:text"
limit = 2
seq_len = 32
"""


@pytest.fixture
def file(llama: Path, tmp_path: Path) -> Path:
    """A study of the tiny LLaMA: 4 extractions, 14 evaluations."""
    (tmp_path / "data").mkdir()
    for name in ("python", "prose", "other", "news"):
        tiny.write_jsonl(tmp_path / "data" / f"{name}.jsonl", name)
    file = tmp_path / "tiny.toml"
    file.write_text(FILE.replace("MODEL", str(llama)))
    return file


def planned(file: Path, *settings: str) -> tuple[study.Study, list[study.Cell], study.Records]:
    read = study.read_study(file, settings)
    out = file.with_suffix("")
    return read, study.plan(read, out, study.open_bases(read)), study.Records(out)


def in_here(started: list[str], failing: Callable[[study.Cell], bool] = lambda cell: False) -> Submit:
    """Runs cells in this process: what `submit` does without a process a cell."""

    def submit(cell: study.Cell, log: Path) -> study.Outcome:
        started.append(cell.name)
        if failing(cell):
            return study.Outcome(2, 1.0, 1 << 20, {}, "submodel: broken on purpose")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(cell.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(list(cell.argv))
        document: dict[str, Any] = json.loads(out.getvalue()) if status == 0 else {}
        return study.Outcome(status, 2.0, 3 << 20, document, err.getvalue().strip())

    return submit


def names(results: list[study.Result], state: str) -> set[str]:
    return {result.cell.name for result in results if result.state == state}


def test_the_plan(file: Path, llama: Path):
    _, cells, _ = planned(file)
    submodels = {
        "magnitude-50": ["magnitude-50"],
        "magnitude-2of4": ["magnitude-2of4"],
        "wanda-50": ["python-wanda-50", "prose-wanda-50"],
        "wanda-2of4": ["python-wanda-2of4", "prose-wanda-2of4"],
    }
    expected = ["tiny/eval/dense/other", "tiny/eval/dense/news"]
    for extraction, made in submodels.items():
        expected.append(f"tiny/extract/{extraction}")
        expected += [f"tiny/eval/{name}/{task}" for name in made for task in ("other", "news")]
    assert [cell.name for cell in cells] == expected
    assert {cell.name.split("/")[-1]: list(cell.makes) for cell in cells if cell.makes} == submodels
    needed = {cell.submodel: cell.needs for cell in cells if cell.submodel}
    assert needed == {name: f"tiny/extract/{e}" for e, made in submodels.items() for name in made}
    parsed = [cli.parser().parse_args(cell.argv) for cell in cells]
    wanda = next(args for args, cell in zip(parsed, cells, strict=True) if cell.name == "tiny/extract/wanda-2of4")
    assert wanda.model == str(llama) and wanda.pattern == "2:4" and (wanda.samples, wanda.seq_len) == (3, 32)
    assert wanda.domain == ["python=python.jsonl:text", "prose=prose.jsonl:text"] and wanda.data_dir == "."
    magnitude = parsed[expected.index("tiny/extract/magnitude-50")]
    assert magnitude.domain == [] and magnitude.name == ["magnitude-50"] and magnitude.sparsity == 0.5
    assert parsed[1].task == ["perplexity:news.jsonl:text"] and (parsed[1].limit, parsed[1].data_dir) == (2, ".")


def _asked(file: Path, option: str, *settings: str) -> dict[str, Any]:
    """Extraction -> what its command line says of an option."""
    parsed = {c.name: cli.parser().parse_args(c.argv) for c in planned(file, *settings)[1] if c.makes}
    return {name.split("/")[-1]: getattr(args, option) for name, args in parsed.items()}


@pytest.mark.parametrize("key", ["prune.minutes=2", "prune.rate=0.1", "calibration.openings=40"])
def test_a_removed_key_says_so(key: str, file: Path):
    with pytest.raises(SubmodelError, match=f"{key.partition('.')[2].partition('=')[0]} was removed .*: drop it"):
        planned(file, key)


def test_allocations_are_an_axis_where_they_can_be(file: Path):
    methods, both = 'prune.methods=["magnitude", "ria"]', 'prune.allocations=["uniform", "rows"]'
    assert _asked(file, "allocation", methods, both) == {
        "magnitude-50": None, "magnitude-2of4": None, "ria-50": None, "ria-50-rows": "rows", "ria-2of4": None
    }  # fmt: skip
    with pytest.raises(SubmodelError, match="did you mean 'rows'"):
        planned(file, methods, 'prune.allocations=["row"]')
    with pytest.raises(SubmodelError, match="allocation loss: removed"):
        planned(file, methods, 'prune.allocations=["loss"]')
    with pytest.raises(SubmodelError, match="unknown allocation"):
        planned(file, methods, 'prune.allocations=[["rows"]]')
    with pytest.raises(SubmodelError, match="'rows' is there twice"):
        planned(file, methods, 'prune.allocations=["rows", "rows"]')


def test_grids_are_an_axis(file: Path):
    methods, both = 'prune.methods=["magnitude", "ria"]', 'prune.grids=["none", "int4"]'
    assert _asked(file, "grid", methods, both, "prune.sparsities=[0.5]") == {
        "magnitude-50": None, "magnitude-50-int4": "int4", "ria-50": None, "ria-50-int4": "int4"
    }  # fmt: skip
    made = {c.name: list(c.makes) for c in planned(file, methods, both, "prune.sparsities=[0.5]")[1] if c.makes}
    assert made["tiny/extract/magnitude-50"] == ["magnitude-50"]
    assert "python-magnitude-50-int4" in made["tiny/extract/magnitude-50-int4"]
    with pytest.raises(SubmodelError, match="unknown grid"):
        planned(file, 'prune.grids=["int5"]')
    with pytest.raises(SubmodelError, match="'int4' is there twice"):
        planned(file, 'prune.grids=["int4", "int4"]')


def test_text_of_mixtures_alone(file: Path):
    mixed = ("texts.tasks='news.jsonl:text'", "domains.coder='python:2+tasks:1'", 'prune.methods=["wanda"]')
    with pytest.raises(SubmodelError, match="news.jsonl:text is what domain coder is calibrated on"):
        planned(file, *mixed)
    _, cells, _ = planned(file, *mixed, "tasks.news.task='perplexity:other.jsonl:text'")
    args = cli.parser().parse_args(cells[2].argv)
    assert args.calibration == ["tasks=news.jsonl:text"] and args.name == [
        "python-wanda-50",
        "prose-wanda-50",
        "coder-wanda-50",
    ]
    assert "tasks=news.jsonl:text" in cells[2].makes["coder-wanda-50"][-3]
    with pytest.raises(SubmodelError, match="did you mean 'tasks'"):
        planned(file, *mixed[:1], "domains.coder='python:2+taks:1'")


@pytest.mark.parametrize("verb, options", [("extract", CALIBRATION), ("eval", EVALUATION)])
def test_every_option_of_a_file_is_one_of_its_verb(verb: str, options: dict[str, Any]):
    values = {"k": [1, 10], "chat": True, "dtype": "float32", "device": "cpu", "wordnet": "DIR"}
    values |= {"shape": "document", "form": "fim", "format": "int8", "decode": True}
    given = {name: values.get(name, 3) for name in options}
    assert all(options[name].fits(value) for name, value in given.items())
    more = ["--task", "humaneval"] if verb == "eval" else []
    args = cli.parser().parse_args([verb, "MODEL", "--out", "OUT", *more, *words(given)])
    assert {name: getattr(args, name) for name in options} == {**given, **({"k": "1,10"} if verb == "eval" else {})}


def test_a_whole_study_and_again(file: Path):
    read, cells, records = planned(file)
    started: list[str] = []
    results = study.run(cells, records, submit=in_here(started))
    assert started == [cell.name for cell in cells] and names(results, "done") == set(started)
    assert names(study.run(cells, study.Records(records.out), submit=in_here(started)), "done") == set(started)
    assert len(started) == len(cells), "a cell ran twice"

    table = study.study_table(read, cells, records).splitlines()
    assert table[:3] == ["Tiny", "", "tiny"]
    heads = ["sub-model", "perplexity other", "perplexity news", "extraction", "peak memory"]
    assert re.split("  +", table[3]) == heads
    lines = [line.split()[0] for line in table[4:11]]
    made = [name for cell in cells for name in cell.makes]
    assert lines == ["dense", *made] and all("2.0 s" in line and "3 MiB" in line for line in table[5:11])
    rows = study.Records(records.out).rows.values()
    assert sum(row.task == "perplexity" for row in rows) == 14 and sum(row.task == "extract" for row in rows) == 12

    # the tables and the records bear a lost row and a changed task; nothing else runs again
    records.rows_file.write_text("".join(records.rows_file.read_text().splitlines(keepends=True)[1:]))
    _, changed, records = planned(file, "tasks.news.limit=4")
    study.run(changed, records, submit=in_here(started := []))
    assert started == ["tiny/eval/dense/other", *(cell.name for cell in cells if cell.name.endswith("/news"))]


def test_gradients_take_the_mask_that_is_there(file: Path):
    given = ('prune.methods=["swaps", "swaps+distil"]', "prune.sparsities=[0.5]")
    read, cells, records = planned(file, *given)
    study.run(study.select(cells, "*/extract/*"), records, submit=in_here([]))
    moved, fitted = (
        {row.submodel: row for row in records.rows_of(cell) if row.metric == "seconds"} for cell in cells if cell.makes
    )
    for domain in ("python", "prose"):
        row, before = fitted[f"{domain}-swaps+distil-50"], f"{domain}-swaps-50"
        assert row.settings["mask_of"] == before and "mask_of" not in moved[before].settings
        taken = Store(records.out / "tiny.store").manifest(before)["seconds"]
        assert row.value == 2.0 + taken and moved[before].value == 2.0
    assert "begun with python-swaps-50's mask" in study.study_table(read, cells, records)


def test_a_domain_that_comes_later(file: Path):
    """Only its own sub-model is made, and what the others took stays."""
    less = ('prune.methods=["wanda"]', "prune.sparsities=[0.5]")
    _, cells, records = planned(file, *less)
    study.run(cells, records, submit=in_here([]))
    tiny.write_jsonl(file.parent / "data" / "late.jsonl", "late")
    read, cells, records = planned(file, *less, "domains.late=late.jsonl:text")
    started: list[str] = []
    study.run(cells, records, submit=in_here(started))
    assert started == ["tiny/extract/wanda-50", "tiny/eval/late-wanda-50/other", "tiny/eval/late-wanda-50/news"]
    rows = [row for cell in cells if cell.makes for row in records.rows_of(cell) if row.metric == "seconds"]
    walks = {row.submodel: row.settings["submodels"] for row in rows}
    both = ["prose-wanda-50", "python-wanda-50"]
    assert walks == {"python-wanda-50": both, "prose-wanda-50": both, "late-wanda-50": ["late-wanda-50"]}
    assert study.study_table(read, cells, records).count("2.0 s") == 3


def test_domains_are_what_extract_takes(file: Path, capsys):
    """Named sets from the study's data directory, mixtures, repositories, and splits of named sets to measure on."""
    data = file.parent / "data"
    rows = [json.dumps({"question": f"{n} + {n}?", "answer": f"It is {2 * n}."}) for n in range(100)]
    for split in ("train", "test"):
        (data / "gsm8k/main").mkdir(parents=True, exist_ok=True)
        (data / f"gsm8k/main/{split}.jsonl").write_text("\n".join(reversed(rows) if split == "test" else rows))
    (data / "repo").mkdir()
    for n in range(20):
        (data / "repo" / f"{n}.py").write_text("\n".join(f"x{i} = {n}" for i in range(30)))
    given = (
        'prune.methods=["wanda"]',
        "prune.sparsities=[0.5]",
        'domains={sums="math", own="python.jsonl:text", both="own:2+math", repo="./repo:python"}',
        'tasks={sums={task="perplexity:math/test", limit=3, seq_len=32}}',
    )
    read, cells, records = planned(file, *given)
    results = study.run(cells, records, submit=in_here([]))
    assert names(results, "done") == {cell.name for cell in cells} and len(cells) == 6
    found = {row.submodel: row for cell in cells for row in records.rows_of(cell) if row.task == "perplexity"}
    assert set(found) == {"dense", *(f"{name}-wanda-50" for name in ("sums", "own", "both", "repo"))}
    assert found["dense"].data["name"] == "math/test" and found["dense"].data["set"]["split"] == "test"
    store = Store(records.out / "tiny.store")
    calibrations = {name: store.manifest(name)["calibration"] for name in store.names}
    assert calibrations["sums-wanda-50"]["path"] == "gsm8k/main/train.jsonl"
    assert [part["tokens"] for part in calibrations["both-wanda-50"]["parts"]] == [64, 32]
    assert calibrations["repo-wanda-50"]["repository"]["languages"]
    assert study.study_table(read, cells, records).count("sums") == 3, "a column, a row, what stands behind it"

    # a part that becomes another text makes its mixtures others
    made = next(cell.makes for cell in cells if cell.makes)
    assert made["both-wanda-50"][-3] == "own:2+math; own=python.jsonl:text"
    for spec, said in (("maths", "did you mean 'math'?"), ("math:0", "above 0"), ("cpp", "code_search_net/cpp/train")):
        assert said in refused(capsys, file, "--set", f"domains.sums={spec}"), spec
    trained = 'tasks={sums={task="perplexity:math/train"}}'
    options = [word for setting in (*given[:3], trained) for word in ("--set", setting)]
    assert "math/train is what domain sums is calibrated on" in refused(capsys, file, *options)


def test_a_failed_cell_does_not_stop_the_others(file: Path, monkeypatch, capsys):
    broken = {"tiny/extract/wanda-50", "tiny/eval/dense/news"}
    started: list[str] = []
    here = in_here(started, lambda cell: cell.name in broken)
    monkeypatch.setattr(study, "run", partial(study.run, submit=here))
    assert cli.main(["study", str(file), "--json"]) == 2
    out, err = capsys.readouterr()
    states = {cell["cell"]: cell["state"] for cell in json.loads(out)["cells"]}
    waiting = {name for name in states if "-wanda-50/" in name}
    assert {name for name, state in states.items() if state == "failed"} == broken and len(waiting) == 4
    assert {name for name, state in states.items() if state == "waiting"} == waiting
    assert sum(state == "done" for state in states.values()) == len(states) - 6 == len(started) - 2
    for name in broken:
        assert f"failed: {name}: submodel: broken on purpose; its log: {file.with_suffix('')}/cells/{name}.log\n" in err

    broken.clear()
    started.clear()
    assert cli.main(["study", str(file), "--only", "*wanda-50*"]) == 0
    assert started == ["tiny/extract/wanda-50", *sorted(waiting, key=list(states).index)]
    assert "5 cells, 5 done\n" in capsys.readouterr().out


def test_a_cell_that_measures_nothing_failed(file: Path):
    """Such as a code task whose language is not installed: eval skips it with a line and ends well."""
    _, cells, records = planned(file)
    records.start(cells[0])
    outcome = study.Outcome(0, 1.0, 1, {"rows": [], "already": []}, "humaneval-java: skipped: no javac")
    assert records.finish(cells[0], outcome) == "humaneval-java: skipped: no javac"
    assert not records.is_done(cells[0])


def test_only_limit_and_dry_run(file: Path, monkeypatch, capsys):
    started: list[str] = []
    monkeypatch.setattr(study, "run", partial(study.run, submit=in_here(started)))
    assert cli.main(["study", str(file), "--only", "prose-wanda-50/news", "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in out[1:3]] == [
        ["tiny/extract/wanda-50", "to", "do"],
        ["tiny/eval/prose-wanda-50/news", "to", "do"],
    ]
    assert out[3].startswith("2 cells, 0 done; the rest will take about 10 s") and started == []
    assert cli.main(["study", str(file), "--only", "prose-wanda-50/news", "--limit", "1"]) == 0
    assert started == ["tiny/extract/wanda-50"]
    assert cli.main(["study", str(file), "--only", "prose-wanda-50/news", "--limit", "1"]) == 0
    assert started == ["tiny/extract/wanda-50", "tiny/eval/prose-wanda-50/news"]
    capsys.readouterr()
    assert cli.main(["study", str(file), "--dry-run", "--json"]) == 0
    states = [cell["state"] for cell in json.loads(capsys.readouterr().out)["cells"]]
    assert len(started) == states.count("done") == 2 and states.count("to do") == 16


def test_what_only_selects(file: Path):
    _, cells, _ = planned(file)
    for only, count in (("wanda-50", 5), ("prose-*/news", 4), ("*/eval/dense/*", 2), ("dense/new", 1), ("tiny", 18)):
        assert len(study.select(cells, only)) == count, only
    assert len(study.select(cells)) == 18
    both = study.select(cells, "wanda-50", "prose-*/news")
    assert len(both) == 7  # one evaluation and one extraction more than wanda-50
    for only in (["prose-*/new"], ["tiny", "prose-*/new"]):
        with pytest.raises(SubmodelError, match="fits none"):
            study.select(cells, *only)


def test_a_task_may_measure_some_domains_alone(file: Path, capsys):
    _, every, _ = planned(file)
    _, cells, _ = planned(file, 'tasks.news.domains=["python"]')
    left_out = ["tiny/eval/prose-wanda-50/news", "tiny/eval/prose-wanda-2of4/news"]
    assert [cell.name for cell in every if cell not in cells] == left_out
    said = refused(capsys, file, "--set", 'tasks.news.domains=["pithon"]')
    assert "[tasks.news]" in said and "did you mean 'python'?" in said
    assert "a list with something in it" in refused(capsys, file, "--set", "tasks.news.domains=[]")


def test_estimates():
    work = Work("extract wanda", 1e9)
    assert estimate(work, []) == START_SECONDS + RATES["extract wanda"] * 1e9
    assert estimate(Work("extract new", 1e9), []) is None and estimate(Work("perplexity", None), []) is None
    measured = [(Work("extract wanda", 2e9), START_SECONDS + 10), (Work("perplexity", 1.0), 1e6)]
    assert estimate(work, measured) == START_SECONDS + 5


def test_a_part_is_estimated_by_what_the_whole_plan_has_finished(file: Path):
    _, cells, records = planned(file)
    dense, pruned = (c for name in ("dense", "magnitude-50") for c in cells if c.name == f"tiny/eval/{name}/other")
    study.run([dense], records, submit=in_here([]))
    assert records.read(dense)["whole"] and dense.work == pruned.work
    (alone,), (beside,) = study.standing([pruned], records), study.standing([pruned], records, cells)
    assert alone.estimate == estimate(pruned.work, [])
    assert beside.estimate == estimate(pruned.work, [(dense.work, records.read(dense)["seconds"])])
    assert beside.estimate != alone.estimate


def test_estimates_of_a_slower_machine():
    took = START_SECONDS + 3 * RATES["extract ria"] * 2e9  # three times as long as is written down
    walk, text = (Work("extract ria", 2e9), took), (Work("perplexity", 1e9), START_SECONDS + 9e9 * RATES["perplexity"])
    swaps = RATES["extract swaps"] * 1e9
    assert estimate(Work("extract swaps", 1e9), [walk, text]) == pytest.approx(START_SECONDS + 3 * swaps)
    assert estimate(Work("extract swaps", 1e9), [text]) == pytest.approx(START_SECONDS + 9 * swaps)
    error = START_SECONDS + 9 * RATES["layer-error"] * 1e9
    assert estimate(Work("layer-error", 1e9), [walk, text]) == pytest.approx(error)
    assert estimate(Work("extract new", 1e9), [walk, text]) is None


def test_another_recipe_or_base_is_refused(file: Path, tmp_path: Path, capsys):
    _, cells, records = planned(file)
    study.run(cells, records, submit=in_here([]), limit=8)
    result = refused(capsys, file, "--set", "calibration.samples=4")
    assert "tiny.store@python-wanda-50" not in result and "magnitude-50" in result
    assert "made with --samples 3, where the study now has --samples 4" in result
    other = tiny.save("qwen2", tmp_path / "other")
    assert "whose weights are not those of" in refused(capsys, file, "--set", f"models.tiny={other}")
    with records.lock():
        assert "a study runs there" in refused(capsys, file)


def test_other_text_under_the_same_name_is_another_cell(file: Path, capsys):
    """A file that was edited, and a data directory with other files, give no old results."""
    _, cells, records = planned(file)
    study.run(cells, records, submit=in_here([]))
    data = file.parent / "data"
    tiny.write_jsonl(data / "news.jsonl", "other news")
    _, cells, records = planned(file)
    study.run(cells, records, submit=in_here(started := []))
    assert started == [cell.name for cell in cells if cell.name.endswith("/news")]
    tiny.write_jsonl(data / "prose.jsonl", "other prose")
    said = refused(capsys, file)
    assert "prose-wanda-50: there already, made with text" in said and "the study now has text" in said


def test_two_tasks_on_one_text_keep_their_columns(file: Path):
    options = "{task='perplexity:news.jsonl:text', limit=2, seq_len=16}"
    read, cells, records = planned(file, f"tasks.short={options}")
    study.run(study.select(cells, "dense"), records, submit=in_here([]))
    head = re.split("  +", study.study_table(read, cells, records).splitlines()[3])
    assert head[1] == "perplexity other" and all("news.jsonl:text" in name for name in head[2:]) and len(head) == 4
    assert "seq_len 32" in head[2] and "seq_len 16" in head[3]

    packed = "{task='perplexity:news.jsonl:text', limit=2, seq_len=32, dtype='bfloat16', format='dense'}"
    read, cells, records = planned(file, f"tasks.packed={packed}", "tasks.news.dtype='bfloat16'")
    study.run(study.select(cells, "dense"), records, submit=in_here([]))
    head, *lines = [re.split("  +", line) for line in study.study_table(read, cells, records).splitlines()[3:6]]
    assert head == ["sub-model", "perplexity other", "perplexity news"]
    assert [line[0] for line in lines] == ["dense", "dense, dense"] and lines[1][1] == "-" and lines[1][2] != "-"


def refused(capsys: pytest.CaptureFixture[str], file: Path, *options: str) -> str:
    capsys.readouterr()
    try:
        status = cli.main(["study", str(file), *options])
    except SystemExit as stop:
        status = int(str(stop.code))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "") and err.count("\n") == 1 and err.startswith("submodel study: "), err
    return err


BAD_LINES = {
    "not TOML": ("[models]", "[models", "not TOML"),
    "an unknown table": ("[tasks.other]", "[task.other]", "did you mean 'tasks'?"),
    "an unknown key": ("seq_len = 32\n[prune]", "seqlen = 32\n[prune]", "did you mean 'seq_len'?"),
    "a key of a task": ("limit = 3", "max_token = 3", "did you mean 'max_tokens'?"),
    "what only the command line may ask": ("limit = 3", "unsafe_code = true", "unknown key"),
    "an unknown method": ('"wanda"', '"wander"', "did you mean 'wanda'?"),
    "an unknown task": ("perplexity:other", "perplexiti:other", "did you mean 'perplexity'?"),
    "no task": ('task = "perplexity:other.jsonl:text"', "", "task = "),
    "no models": ("[models]\n", "[calibration.models]\n", "no [models]"),
    "a method twice": ('"wanda"]', '"wanda", "wanda"]', "method 'wanda' is there twice"),
    "a repository that is not there": ("perplexity:other.jsonl:text", "repository:nowhere:python", "no such directory"),
    "a bad pattern": ('"2:4"', '"4:2"', "0 < N < M"),
    "a bad sparsity": ("[0.5,", "[1.5,", "from 0 to less than 1"),
    "a sparsity that is no number": ("[0.5,", "[true,", "give a fraction"),
    "a sparsity twice": ("[0.5,", "[0.5, 0.5,", "twice"),
    "a number of the wrong kind": ("samples = 3", "samples = 0.5", "a whole number from 1"),
    "a shape that is none": ("samples = 3", 'shape = "square"', "packed or document"),
    "a model that is not there": ('tiny = "', 'tiny = "/nowhere', "--set models.tiny=PATH"),
    "a domain that is not there": ("python.jsonl", "pithon.jsonl", "--set data=DIR"),
    "no such column": ("prose.jsonl:text", "prose.jsonl:body", "no column 'body'"),
    "no data directory": ('data = "data"', 'data = "date"', "--set data=DIR"),
    "no set": ("perplexity:other.jsonl:text", "humaneval", "humaneval/test.jsonl"),
    "a bad name": ("python =", '"py/thon" =', "letters and digits"),
    "text that is calibrated on": ("perplexity:other.jsonl", "perplexity:prose.jsonl", "has not seen"),
    "a method without text": ('python = "python.jsonl:text"\nprose = "prose.jsonl:text"\n', "", "under [domains]"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_files(case: str, file: Path, capsys):
    old, new, said = BAD_LINES[case]
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    assert said in refused(capsys, file)
    assert not file.with_suffix("").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (["--set", "models.tiny"], "KEY=VALUE"),
        (["--set", "title.x=1"], "no table"),
        (["--set", "titel=x"], "did you mean 'title'?"),
        (["--only", "nothing"], "fits none"),
        (["--set", 'models."tiny.en"=/nowhere'], """--set 'models."tiny.en"'=PATH"""),
        (["--set", "models..x=1"], "KEY=VALUE"),
        (["--limit", "0"], "larger number"),
    ],
)
def test_bad_options(options: list[str], said: str, file: Path, capsys):
    assert said in refused(capsys, file, *options)
    assert "cannot be read" in refused(capsys, file.with_name("none.toml"))


def launched(tmp_path: Path, code: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "out"), str(tmp_path / "err")]
    return subprocess.Popen(
        [*command, sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_the_launcher_measures_the_command_alone(tmp_path: Path):
    """This process has torch in memory, which would count into the peak of a child of its own."""
    peaks = []
    for size, status in ((1, 0), (80, 3)):
        with launched(
            tmp_path, f"x = bytes(range(256)) * ({size} << 12); print(len(x)); raise SystemExit({status})"
        ) as p:
            assert p.stdout and p.stdin
            found = json.loads(p.stdout.read())
        assert found["status"] == status and (tmp_path / "out").read_text() == f"{size << 20}\n"
        peaks.append(found["peak_bytes"])
    assert peaks[0] < 60 << 20 < psutil.Process().memory_info().rss and 75 << 20 < peaks[1] - peaks[0] < 90 << 20


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="finds the processes of a study as Linux lists them")
def test_a_killed_study_leaves_nothing_running_and_goes_on(file: Path, capsys):
    words = ["-m", "submodel.cli", "study", str(file), "--only", "magnitude-50/other"]
    killed = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    out = file.with_suffix("")
    log = out / "cells/tiny/extract/magnitude-50.log"
    children: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while not (log.exists() and len(children) == 2) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(killed.pid).children(recursive=True)
    assert len(children) == 2, "the launcher and the cell"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert cli.main(["study", str(file), *words[4:], "--limit", "1"]) == 0, "in a process of its own"
    assert "2 cells, 1 done;" in capsys.readouterr().out
    _, cells, records = planned(file)
    (done,) = (result for result in study.standing(cells, records) if result.state == "done")
    assert done.cell.name == "tiny/extract/magnitude-50" and done.peak_bytes and 100 << 20 < done.peak_bytes < 4 << 30


@pytest.mark.data
@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "studies").glob("*.toml")), ids=lambda f: f.name
)
def test_the_studies_of_the_tree(file: Path, data_dir: Path, llama: Path):
    read = study.read_study(file, [f"data={data_dir}"])
    model = [f"models.{name}={llama}" for name in read.models]
    read = study.read_study(file, [f"data={data_dir}", *model])
    assert study.plan(read, Path("out"), study.open_bases(read))


def test_a_file_error_is_a_submodel_error(tmp_path: Path):
    with pytest.raises(SubmodelError, match="cannot be read"):
        study.read_study(tmp_path)
