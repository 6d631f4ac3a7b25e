"""A Python sub-model of a 0.5B coder, beside its base: what it answers, what it takes, what it lost.

    python examples/demo.py FOLDER

FOLDER/model holds Qwen2.5-Coder-0.5B-Instruct (examples/fetch_model.py). The sub-model is calibrated on functions of
the standard library, and its output head keeps the tokens that these need; one source file in eight is held out, and
perplexity is taken on those alone. Then base and sub-model get the same three requests, and the programs that they
write are run against tests in a sandbox. The base's weights come from a quantised file, so figures here are not figures
on the original model.
"""

import re
import shlex
import sys
import sysconfig
import textwrap
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import submodel
from submodel import cli
from submodel.bench.ours import weight_bytes
from submodel.errors import SubmodelError
from submodel.tasks.judge import Judge, Program, Verdict
from submodel.tasks.sandbox import open_sandbox

SPARSITY = "0.3"
FORMAT = "int8"
COLUMN = 57  # characters of one of two columns
MOST_LINES = 24


@dataclass(frozen=True)
class Request:
    """What is asked for, and tests that an answer has to pass."""

    text: str
    tests: str


@dataclass(frozen=True)
class Answer:
    """A program that a model wrote, and what came of it.

    Attributes:
        program: the answer's first code block.
        verdict: "passes its tests", or why not.
        passed: whether it does; None where nothing here can run it safely.
        tokens, seconds: of the answer after its first token.
    """

    program: str
    verdict: str
    passed: bool | None
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Answered:
    """All answers of a model, kept in memory in some format."""

    title: str
    memory_bytes: int
    answers: tuple[Answer, ...]

    @property
    def tokens_a_second(self) -> float:
        return sum(answer.tokens for answer in self.answers) / sum(answer.seconds for answer in self.answers)

    @property
    def passing(self) -> str:
        if any(answer.passed is None for answer in self.answers):
            return "not run"
        return f"{sum(bool(answer.passed) for answer in self.answers)} of {len(self.answers)}"


ALONE = "Answer with the function alone, in one code block, without an explanation."
REQUESTS = (
    Request(
        "Write a Python function count_words(text) that returns a dict with how often each word occurs, ignoring case.",
        "assert count_words('a B b') == {'a': 1, 'b': 2}\nassert count_words('') == {}",
    ),
    Request(
        "Write a Python function primes_up_to(n) that returns the list of all primes up to and including n.",
        "assert primes_up_to(11) == [2, 3, 5, 7, 11]\nassert primes_up_to(1) == []",
    ),
    Request(
        "Write a Python function binary_search(items, target) that returns the index of target in a sorted list, or "
        "-1.",
        "assert binary_search([1, 3, 5], 5) == 2\nassert binary_search([1, 3, 5], 4) == -1\n"
        "assert binary_search([], 1) == -1",
    ),
)


REMARKS = (
    "Perplexity, the lower the better, was taken by extract, in 16 bits, on files that calibration did not read. Three "
    "requests that the base can answer are no evaluation: submodel eval measures HumanEval and others. Nothing was "
    "done to keep what is not Python: tokens that the standard library does not need are said only where the request "
    "has them. The base's weights come from a file of about 5 bits a weight, so these are not figures of the original. "
    "On disk the sub-model is {megabytes} MB beside its base, as is every further one."
)


def main(folder: Path) -> None:
    """Derive, measure, ask, and say what came of it."""
    base = str(folder / "model" / "qwen2.5-coder-0.5b.gguf")
    store = str(folder / "coder.store")
    stdlib = f"{sysconfig.get_path('stdlib')}:python"

    heading("A sub-model for Python: 30% of the weights removed, by 8,192 tokens of the standard library")
    options = ["--effort", "quick", "--sparsity", SPARSITY, "--tokens", "8192", "--vocab", "domain"]
    run("extract", base, "--domain", f"python={stdlib}", *options, "--out", store)

    coder = f"{store}@python"
    judge = open_judge()
    models = (
        ("base, 16 bits", base, "dense"),
        ("base, 8 bits", base, "dense-int8"),
        ("sub-model, 8 bits", coder, FORMAT),
    )
    loaded = [submodel.load(model, weight_format=form) for _, model, form in models]
    # request by request, so that whatever else the machine does slows all of them alike
    answers = [[answer(model, request, judge) for model in loaded] for request in REQUESTS]
    answered = [
        Answered(title, weight_bytes(model.model), tuple(row[at] for row in answers))
        for at, ((title, _, _), model) in enumerate(zip(models, loaded, strict=True))
    ]

    heading("The same three requests")
    for number in range(len(REQUESTS)):
        side_by_side(number, answered[0], answered[-1])

    heading("What it takes, and what it lost")
    about = submodel.info(coder)
    print(summary(answered, about))
    print(f"\n{textwrap.fill(REMARKS.format(megabytes=f'{about.size_bytes / 1e6:.0f}'), 2 * COLUMN)}")
    print(f"\nNow yours to use:\n\n    source .venv/bin/activate && submodel serve {store} --format {FORMAT}")


def run(*words: str) -> None:
    """Print a command and run it, in this process to import torch once; stop if it fails."""
    print(f"$ submodel {shlex.join(words)}", flush=True)
    if status := cli.main(words):
        sys.exit(status)


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}\n", flush=True)


def open_judge() -> Judge | None:
    """What runs a model's programs; None where nothing here isolates them."""
    try:
        return Judge(open_sandbox())
    except SubmodelError as error:
        print(f"the answers are not run: {error}", file=sys.stderr)
        return None


def answer(model: submodel.Loaded, request: Request, judge: Judge | None) -> Answer:
    """One request put to one model, and the program that it writes run against the tests."""
    times: list[float] = []
    text = submodel.generate(
        model, f"{request.text} {ALONE}", chat=True, max_tokens=256, write=lambda _: times.append(time.monotonic())
    )
    block = re.search(r"```[^\n]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    program = (block[1] if block else text).rstrip()
    seconds = time.monotonic() - times[0]
    verdict = judge.judge(Program("python", program, request.tests)) if judge else None
    return Answer(
        program=program,
        verdict=in_words(verdict),
        passed=verdict.passed if verdict else None,
        tokens=len(model.tokenizer(text)["input_ids"]) - 1,
        seconds=seconds,
    )


def in_words(verdict: Verdict | None) -> str:
    """What came of running a program."""
    if verdict is None:
        return "not run"
    return "passes its tests" if verdict.passed else f"fails its tests: {verdict.status}, {verdict.detail}"


def side_by_side(number: int, *models: Answered) -> None:
    """A request, the programs that two models wrote, and whether they work."""
    print(textwrap.fill(REQUESTS[number].text, 2 * COLUMN), end="\n\n")
    answers = [model.answers[number] for model in models]
    programs = [shortened(answer.program) for answer in answers]
    speeds = [f"{answer.tokens / answer.seconds:.0f} tokens a second" for answer in answers]
    print_columns([[f"{model.title}, {speed}", ""] for model, speed in zip(models, speeds, strict=True)])
    print_columns(programs)
    print_columns([["", *textwrap.wrap(f"-> {answer.verdict}", COLUMN - 1)] for answer in answers])
    print()


def shortened(program: str) -> list[str]:
    """The lines of a program as far as a column holds them."""
    lines = [line if len(line) < COLUMN else f"{line[: COLUMN - 4]}..." for line in program.splitlines()]
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"... and {more} more lines"]


def print_columns(columns: list[list[str]]) -> None:
    """Two lists of lines beside each other."""
    for left, right in zip_longest(*columns, fillvalue=""):
        print(f"{left:<{COLUMN}} | {right}".rstrip())


def summary(answered: list[Answered], about: submodel.Info) -> str:
    """The table at the end."""
    held_out = about.held_out
    assert held_out is not None, "extract measured nothing"
    kept = about.manifest["vocabulary"]
    dense, pruned = held_out.base_perplexity, held_out.perplexity
    lines = [
        ["", *(model.title for model in answered)],
        ["memory of the weights", *(f"{model.memory_bytes / 1e6:.0f} MB" for model in answered)],
        ["tokens a second", *(f"{model.tokens_a_second:.0f}" for model in answered)],
        ["rows of the output head", f"{kept['rows']:,}", f"{kept['rows']:,}", f"{kept['head']['kept']:,}"],
        ["answers that pass", *(model.passing for model in answered)],
        ["perplexity, held out", f"{dense:.2f}", "-", f"{pruned:.2f} ({pruned / dense - 1:+.1%})"],
    ]
    widths = (26, 20, 20, 0)
    padded = ["".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(line.rstrip() for line in padded)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py FOLDER")
    main(Path(sys.argv[1]))
