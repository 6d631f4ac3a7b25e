"""CODE: every code task, a line each: its data, its language, and how a row becomes a problem.

Prompt forms and stops follow the sets' own harnesses:
HumanEval, MBPP: lm-evaluation-harness' tasks `humaneval` and `mbpp`;
MultiPL-E: the rows' stop_tokens, program = prompt + text + newline + tests (the tests close the function);
HumanEval-X: https://github.com/THUDM/CodeGeeX; translation shows the source language's solution before the target's
declaration, as CodeGeeX does;
-fim: single-line infilling (https://arxiv.org/abs/2207.14255, section 3.1): every line of a solution is a gap once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from submodel.calibration.sets import NamedSet
from submodel.tasks.code.problem import SHOWN, Problem

Row = dict[str, Any]

_PYTHON_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_LANGUAGES = {"python": "python", "java": "java", "cpp": "cpp", "js": "javascript"}
# where a function of HumanEval-X ends, and what closes the program there
_X_CLOSING = {"python": "", "java": "\n    }\n}", "cpp": "\n}\n", "javascript": "\n}\n"}
_X_STOPS = {"python": _PYTHON_STOPS, "java": ("\n    }",), "cpp": ("\n}",), "javascript": ("\n}",)}
# assert as the tests mean it, whatever came before
_LIVE_ASSERT = "\n#undef assert\n#undef NDEBUG\n#include <assert.h>\n"
# what CodeGeeX's harness puts before every C++ program
_X_HEADERS = "".join(
    f"#include <{name}>\n"
    for name in ("cstdlib", "vector", "algorithm", "map", "string", "cmath", "cstring", "climits", "iostream", "set")
)


@dataclass(frozen=True)
class CodeTask:
    """A code task.

    Attributes:
        sets: the data; "test" holds the problems.
        language: of the programs.
        problems: the sets' rows -> problems.
        infills: they are gaps to fill.
    """

    sets: dict[str, NamedSet]
    language: str
    problems: Callable[[dict[str, list[Row]]], list[Problem]]
    infills: bool = False


def _humaneval(row: Row) -> Problem:
    return Problem(
        id=row["task_id"],
        language="python",
        prompt=row["prompt"],
        stops=_PYTHON_STOPS,
        before=row["prompt"],
        tests=f"{row['test']}\ncheck({row['entry_point']})\n",
        context=_context(row["prompt"]),
        entry=row["entry_point"],
        solution=row["canonical_solution"],
    )


def _context(prompt: str) -> str:
    """A prompt as a whole program: its last function has a body even where it has no docstring."""
    return f"{prompt}    pass\n"


def _mbpp_text(row: Row) -> str:
    tests = "\n".join(row["test_list"][:3])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def _mbpp(sets: dict[str, list[Row]]) -> list[Problem]:
    shots = [row for row in sets["prompt"] if row["task_id"] in (2, 3, 4)]
    shown = "".join(f"{_mbpp_text(row)}{row['code']}\n[DONE]\n\n" for row in shots)
    return [
        Problem(
            id=f"MBPP/{row['task_id']}",
            language="python",
            prompt=shown + _mbpp_text(row),
            stops=("[DONE]",),
            before="",
            tests="\n".join([row.get("test_setup_code") or "", *row["test_list"]]),
            question=(  # the paper's zero-shot form
                "You are an expert Python programmer, don't explain the code, just write it. "
                f"{row['text']} Your code should pass these tests:\n\n" + "\n".join(row["test_list"])
            ),
            solution=row["code"],
        )
        for row in sets["test"]
    ]


def _multipl_e(row: Row, language: str) -> Problem:
    return Problem(
        id=row["name"],
        language=language,
        prompt=row["prompt"],
        stops=tuple(row["stop_tokens"]),
        before=row["prompt"],
        tests=(_LIVE_ASSERT if language == "cpp" else "") + row["tests"],
    )


def _humaneval_x(row: Row, language: str) -> Problem:
    before, tests = row["prompt"], row["test"]
    if language == "python":
        entry = row["declaration"].rsplit("def ", 1)[1].partition("(")[0]
        return Problem(
            id=row["task_id"],
            language=language,
            prompt=before,
            stops=_PYTHON_STOPS,
            before=before,
            tests=tests,
            context=_context(before),
            entry=entry,
            solution=row["canonical_solution"],
        )
    return Problem(
        id=row["task_id"],
        language=language,
        prompt=before,
        stops=_X_STOPS[language],
        before=(_X_HEADERS if language == "cpp" else "") + before,
        tests=(_LIVE_ASSERT if language == "cpp" else "") + tests,
        closing=_X_CLOSING[language],
        solution=row["canonical_solution"],
    )


def _each(problem: Callable[[Row], Problem], sets: dict[str, list[Row]]) -> list[Problem]:
    return [problem(row) for row in sets["test"]]


def _translated(source: str, target: str, sets: dict[str, list[Row]]) -> list[Problem]:
    given = {row["task_id"].split("/")[1]: row for row in sets["source"]}
    problems = []
    for row in sets["test"]:
        number = row["task_id"].split("/")[1]
        shown = given[number]["declaration"] + given[number]["canonical_solution"]
        declared = row["declaration"] if target != "python" else row["declaration"].lstrip("\n")
        known = _humaneval_x(row, target)
        head = (_X_HEADERS if target == "cpp" else "") + declared
        problems.append(
            Problem(
                id=f"{SHOWN[source]}-{SHOWN[target]}/{number}",
                language=target,
                prompt=f"code translation\n{SHOWN[source]}:\n{shown.strip()}\n{SHOWN[target]}:\n{declared}",
                stops=known.stops,
                before=head,
                tests=known.tests,
                closing=known.closing,
                context=known.context,
                entry=known.entry,
                question=(
                    f"Translate this {SHOWN[source]} function to {SHOWN[target]}. Answer with one code block.\n\n"
                    f"```{source}\n{shown.strip()}\n```\n\nThe {SHOWN[target]} function begins:\n\n"
                    f"```{target}\n{declared.strip()}\n```"
                ),
                solution=known.solution,
            )
        )
    return problems


def _gaps(problem_of: Callable[[Row], Problem], sets: dict[str, list[Row]]) -> list[Problem]:
    """Every line of every solution that is not blank, left out once.

    The first so many are of as many problems as can be: one line of each, drawn by its digest, then another of each.
    """
    drawn: list[tuple[int, int, Problem]] = []
    for number, row in enumerate(sets["test"]):
        problem = problem_of(row)
        assert problem.solution is not None
        lines = problem.solution.split("\n")
        gaps = [i for i, line in enumerate(lines) if line.strip()]
        gaps.sort(key=lambda i, name=problem.id: hashlib.sha256(f"{name}/{i}".encode()).digest())
        for turn, i in enumerate(gaps):
            head = "".join(f"{line}\n" for line in lines[:i])
            gap = replace(
                problem,
                id=f"{problem.id}/{i}",
                prompt=problem.prompt + head,
                stops=("\n",),
                before=problem.before + head,
                after="".join(f"\n{line}" for line in lines[i + 1 :]),
                closing="",
                solution=lines[i],
            )
            drawn.append((turn, number, gap))
    return [gap for _, _, gap in sorted(drawn, key=lambda one: one[:2])]


def _x_set(name: str) -> NamedSet:
    return NamedSet(f"humaneval_x/{name}", "THUDM/humaneval-x", name)


def _plain(source: NamedSet, language: str, problem: Callable[[Row], Problem]) -> CodeTask:
    return CodeTask({"test": source}, language, partial(_each, problem))


def _infilled(source: NamedSet, language: str, problem: Callable[[Row], Problem]) -> CodeTask:
    return CodeTask({"test": source}, language, partial(_gaps, problem), infills=True)


_HUMANEVAL = NamedSet("humaneval", "openai/openai_humaneval")

CODE: dict[str, CodeTask] = {
    "humaneval": _plain(_HUMANEVAL, "python", _humaneval),
    "humaneval-fim": _infilled(_HUMANEVAL, "python", _humaneval),
    "humaneval+": _plain(NamedSet("humaneval_plus", "evalplus/humanevalplus"), "python", _humaneval),
    "mbpp": CodeTask(
        {
            "test": NamedSet("mbpp", "google-research-datasets/mbpp", "full"),
            "prompt": NamedSet("mbpp", "google-research-datasets/mbpp", "full", "prompt"),
        },
        "python",
        _mbpp,
    ),
    **{
        f"humaneval-{short}": _plain(
            NamedSet(f"multipl_e/humaneval-{short}", "nuprl/MultiPL-E", f"humaneval-{short}"),
            language,
            partial(_multipl_e, language=language),
        )
        for short, language in _LANGUAGES.items()
        if short != "python"
    },
    **{
        f"humaneval-x-{short}": _plain(_x_set(short), language, partial(_humaneval_x, language=language))
        for short, language in _LANGUAGES.items()
    },
    **{
        f"humaneval-x-{short}-fim": _infilled(_x_set(short), language, partial(_humaneval_x, language=language))
        for short, language in _LANGUAGES.items()
    },
    **{
        f"humaneval-x-{a}-to-{b}": CodeTask(
            {"test": _x_set(b), "source": _x_set(a)}, _LANGUAGES[b], partial(_translated, _LANGUAGES[a], _LANGUAGES[b])
        )
        for a in _LANGUAGES
        for b in _LANGUAGES
        if a != b
    },
}
