"""Code tasks: how programs are put together, pass@k, intervals, and a run that a kill interrupts."""

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from submodel.calibration.sets import NamedSet, read_set
from submodel.errors import SubmodelError
from submodel.runtime import Continuation, Request
from submodel.tasks import TASKS, evaluate, parse_task
from submodel.tasks.cell import Settings
from submodel.tasks.code import CODE
from submodel.tasks.code import task as code_task
from submodel.tasks.code.passk import pass_at_k
from submodel.tasks.code.problem import Problem, program, text_of_answer
from submodel.tasks.intervals import bootstrap, mean_interval, wilson
from submodel.tasks.journal import Journal
from submodel.tasks.sandbox import open_sandbox
from tests import tiny

ADD = {
    "task_id": "T/0",
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
}
TWICE = {
    **ADD,
    "task_id": "T/1",
    "prompt": 'def twice(a):\n    """2a."""\n',
    "canonical_solution": "    return 2 * a\n",
}
TWICE |= {"test": "def check(candidate):\n    assert candidate(4) == 8\n", "entry_point": "twice"}
JAVA = {
    "name": "HumanEval_0_add",
    "language": "java",
    "prompt": "class Problem {\n    // Sum.\n    public static long add(long a, long b) {\n",
    "tests": "    }\n    public static void main(String[] args) {\n    assert(add(1, 2) == 3);\n    }\n}\n",
    "stop_tokens": ["\n    }\n"],
}
CPP_X = {
    "task_id": "CPP/0",
    "prompt": "/* Sum. */\nint add(int a, int b){\n",
    "declaration": "int add(int a, int b){\n",
    "canonical_solution": "    return a + b;\n}\n",
    "test": "int main(){ assert(add(1, 2) == 3); }",
    "example_test": "",
}


def _write(folder: Path, path: str, *rows: dict[str, Any]) -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def sandboxed() -> None:
    try:
        open_sandbox()
    except SubmodelError as error:
        pytest.skip(str(error))


def _says(texts: dict[str, list[str]], asked: list[Request]) -> Any:
    """A stand-in for the model: the given texts of each problem."""

    def generate(loaded: Any, requests: list[Request], **_: Any) -> Iterator[Continuation]:
        for request in requests:
            asked.append(request)
            for sample in range(len(request.seeds)):
                yield Continuation(request.key, sample, texts[request.key][sample], (1,), "stop")

    return generate


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass(n: int):
    for passed in range(n + 1):
        for k in range(1, n + 1):
            draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
            assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError):
        pass_at_k(n, 0, n + 1)


def test_intervals():
    low, high = wilson(0, 20)
    assert low == 0 and high == pytest.approx(0.1611, abs=1e-4)  # Wilson 1927, z = 1.96
    low, high = wilson(5, 10)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    values = np.array([0.0, 1.0] * 50)
    assert mean_interval(values) == wilson(50, 100)
    mixed = np.linspace(0, 1, 101)
    low, high = mean_interval(mixed)
    sigma = mixed.std() / 101**0.5
    assert (low, high) == (pytest.approx(0.5 - 1.96 * sigma, abs=0.01), pytest.approx(0.5 + 1.96 * sigma, abs=0.01))
    assert bootstrap(mixed) == bootstrap(mixed)


def test_journal_forgets_the_line_that_a_kill_cut(tmp_path: Path):
    out = tmp_path / "rows.jsonl"
    journal = Journal(out, "cell")
    journal.add("a", {"x": 1})
    journal.add("b", [2])
    with open(journal.file, "a") as f:
        f.write('{"key": "c", "va')
    again = Journal(out, "cell")
    assert again.entries == {"a": {"x": 1}, "b": [2]}
    again.add("c", 3)
    assert Journal(out, "cell").entries == {"a": {"x": 1}, "b": [2], "c": 3}
    assert Journal(out, "another").entries == {}
    again.file.write_text("[]\n")
    with pytest.raises(SubmodelError, match="line 1: not a journal"):
        Journal(out, "cell")


def test_programs(tmp_path: Path):
    folder = _write(tmp_path, "humaneval/test.jsonl", ADD)
    _write(folder, "multipl_e/humaneval-java/test.jsonl", JAVA)
    _write(folder, "humaneval_x/cpp/test.jsonl", CPP_X)
    _write(folder, "humaneval_x/python/test.jsonl", {**ADD, "task_id": "Python/0", "declaration": "def add(a, b):\n"})

    def first(name: str) -> Any:
        sets = {role: read_set(source, folder) for role, source in CODE[name].sets.items()}
        return code_task.problems_of(name, sets)[0]

    python = first("humaneval")
    made = program(python, "    return a + b")
    assert made.source == ADD["prompt"] + "    return a + b" and "check(add)" in made.checks and made.entry == "add"
    java = first("humaneval-java")
    made = program(java, "        return a + b;")
    assert made.source == JAVA["prompt"] + "        return a + b;\n" + JAVA["tests"]
    cpp = first("humaneval-x-cpp")
    made = program(cpp, "    return a + b;")
    assert "    return a + b;\n}\n" in made.source and made.source.endswith(CPP_X["test"])
    assert made.source.index("#undef NDEBUG") > made.source.index("return a + b")
    open_ended = program(cpp, "    return a +", closing=False).source
    assert "return a +\n" in open_ended and "return a +\n}" not in open_ended
    translated = first("humaneval-x-python-to-cpp")
    assert translated.prompt.startswith("code translation\nPython:\ndef add(a, b):\n") and translated.before.endswith(
        "int add(int a, int b){\n"
    )


def test_answers_of_a_chat_become_completions(tmp_path: Path):
    folder = _write(tmp_path, "multipl_e/humaneval-java/test.jsonl", JAVA)
    _write(folder, "humaneval/test.jsonl", ADD)
    [java] = code_task.problems_of("humaneval-java", {"test": read_set(CODE["humaneval-java"].sets["test"], folder)})
    [python] = code_task.problems_of("humaneval", {"test": read_set(CODE["humaneval"].sets["test"], folder)})
    whole = "class Problem {\n    public static long add(long a, long b) {\n        return a + b;\n    }\n}\n"
    assert text_of_answer(java, f"Sure!\n```java\n{whole}```\nDone.") == ("\n        return a + b;", True)
    other = "    public static long add(long x, long y)\n    {\n        return x + y;\n    }\n"
    assert text_of_answer(java, f"```java\n{other}```") == ("\n        return x + y;", True)
    assert text_of_answer(java, "```java\n" + whole.partition(" + b")[0]) == ("\n        return a", False)
    answer, _ = text_of_answer(python, "```python\ndef add(a, b):\n    return a + b\n```")
    assert program(python, answer).source == ADD["prompt"] + "\ndef add(a, b):\n    return a + b\n"


def _problems(name: str, folder: Path) -> list[Problem]:
    return code_task.problems_of(name, {role: read_set(source, folder) for role, source in CODE[name].sets.items()})


def test_every_line_of_a_solution_is_a_gap(tmp_path: Path):
    longer = {**ADD, "canonical_solution": "    c = a + b\n\n    # done\n    return c\n"}
    folder = _write(tmp_path, "humaneval/test.jsonl", longer, TWICE)
    _write(folder, "humaneval_x/cpp/test.jsonl", CPP_X)
    for name, count in (("humaneval-fim", 4), ("humaneval-x-cpp-fim", 2)):
        wholes = {problem.id: problem for problem in _problems(name.removesuffix("-fim"), folder)}
        gaps = _problems(name, folder)
        assert len({gap.id for gap in gaps}) == len(gaps) == count
        assert {gap.id.rpartition("/")[0] for gap in gaps[: len(wholes)]} == set(wholes), "a line of each comes first"
        for gap in gaps:
            whole = wholes[gap.id.rpartition("/")[0]]
            assert gap.solution and whole.solution and "\n" not in gap.solution and gap.stops == ("\n",)
            assert gap.prompt + gap.solution + gap.after == whole.prompt + whole.solution
            assert program(gap, gap.solution) == program(whole, whole.solution, closing=False)
            assert program(gap, "xyz").source != program(gap, gap.solution).source


@pytest.mark.usefixtures("sandboxed")
def test_middles_are_filled_in_and_judged(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = _write(tmp_path / "data", "humaneval/test.jsonl", ADD, TWICE)
    marks = [f"<fim_{part}>" for part in ("prefix", "suffix", "middle")]
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens([*marks, "<file_sep>"])
    tokenizer.save_pretrained(model)
    texts, asked = {"T/0/0": ["    return a + b"], "T/1/0": ["    return a"]}, []
    monkeypatch.setattr(code_task, "generate_batch", _says(texts, asked))
    task, settings = [parse_task("humaneval-fim")], Settings(data_dir=folder)
    [row] = evaluate([str(model)], task, tmp_path / "rows.jsonl", settings)
    assert (row.value, row.n, row.settings["prompt"]) == (0.5, 2, "fill in the middle")
    prefix, suffix, middle, after = (tokenizer.get_vocab()[mark] for mark in (*marks, "<file_sep>"))
    inside = [tokenizer(text)["input_ids"] for text in (ADD["prompt"], "\n")]
    assert list(asked[0].prompt) == [prefix, *inside[0], suffix, *inside[1], middle]
    assert asked[0].ends == {prefix, suffix, middle, after} and asked[0].stops == ("\n",)
    for wrong, said in ((llama, "no fill-in-the-middle tokens"), (model, "leave out --chat")):
        chat = wrong == model
        with pytest.raises(SubmodelError, match=said):
            list(evaluate([str(wrong)], task, tmp_path / "r.jsonl", Settings(data_dir=folder, chat=chat)))


@pytest.mark.usefixtures("sandboxed")
def test_a_run_goes_on_where_it_was_killed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = _write(tmp_path / "data", "humaneval/test.jsonl", ADD, TWICE)
    out = tmp_path / "rows.jsonl"
    right = {"T/0": ["    return a + b", "    return 0"], "T/1": ["    return a * 2", "    return a + a"]}
    settings = Settings(data_dir=folder, samples=2, ks=(1, 2))
    tasks = [parse_task("humaneval")]
    asked: list[Request] = []

    def dies(loaded: Any, requests: list[Request], **options: Any) -> Iterator[Continuation]:
        yield next(_says(right, asked)(loaded, requests, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(code_task, "generate_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        list(evaluate([str(llama)], tasks, out, settings))
    assert not out.exists()
    kept = [json.loads(line) for line in next(out.with_suffix(".parts").iterdir()).read_text().splitlines()]
    asked.clear()
    monkeypatch.setattr(
        code_task, "generate_batch", _says({k: v[len(kept) if k == "T/0" else 0 :] for k, v in right.items()}, asked)
    )
    rows = list(evaluate([str(llama)], tasks, out, settings))
    assert sum(len(request.seeds) for request in asked) == 4 - len(kept)
    assert [(row.metric, row.value, row.n) for row in rows] == [("pass@1", 0.75, 2), ("pass@2", 1.0, 2)]
    assert list(evaluate([str(llama)], tasks, out, settings)) == []


@pytest.mark.usefixtures("sandboxed")
def test_a_real_continuation_is_judged(llama: Path, tmp_path: Path):
    folder = _write(tmp_path / "data", "humaneval/test.jsonl", ADD, TWICE)
    [row] = evaluate(
        [str(llama)], [parse_task("humaneval")], tmp_path / "rows.jsonl", Settings(data_dir=folder, max_tokens=6)
    )
    assert row.value == 0 and row.low == 0 and 0.3 < row.high < 1 and row.settings["temperature"] == 0


def test_a_missing_toolchain_skips_and_says_so(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(code_task, "missing_toolchain", lambda language: "java: no javac on PATH")
    said: list[str] = []
    rows = evaluate([str(llama)], [parse_task("humaneval-java")], tmp_path / "rows.jsonl", Settings(), say=said.append)
    assert list(rows) == [] and said == ["humaneval-java: skipped: java: no javac on PATH"]


def test_bad_requests_are_refused(llama: Path, tmp_path: Path):
    def refused(message: str, settings: Settings, task: str = "humaneval") -> None:
        with pytest.raises(SubmodelError, match=message):
            list(evaluate([str(llama)], [parse_task(task)], tmp_path / "rows.jsonl", settings))

    folder = _write(tmp_path / "data", "humaneval/test.jsonl", {"task_id": "x"})
    refused("pass@5 of 2 samples", Settings(samples=2, ks=(5,), data_dir=folder))
    refused("temperature 0", Settings(samples=2, temperature=0, data_dir=folder))
    refused("no column 'prompt'", Settings(data_dir=folder))
    refused("no such file", Settings(data_dir=folder), "mbpp")
    refused("has no chat template", Settings(data_dir=folder, chat=True))
    (folder / "humaneval/test.jsonl").write_text("not json\n")
    refused("not JSON lines", Settings(data_dir=folder))
    with pytest.raises(SubmodelError, match="has its own data"):
        parse_task("humaneval:x")
    with pytest.raises(SubmodelError, match="unknown task 'humanval'"):
        parse_task("humanval")


def test_the_hub_out_of_reach_is_one_line():
    with pytest.raises(SubmodelError, match=r"(cannot be had from the hub|install submodel\[eval\])") as found:
        read_set(NamedSet("humaneval", "openai/openai_humaneval"), None)
    assert "\n" not in str(found.value)


def test_every_code_task_names_data_and_a_judge():
    assert set(CODE) <= set(TASKS)
    for name, task in CODE.items():
        assert task.language in ("python", "java", "cpp", "javascript"), name
        assert "test" in task.sets
