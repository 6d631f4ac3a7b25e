"""Every data set's own solutions through the judge: each must pass, and fail once it is emptied or an operator changed.

    python -m tests.solutions DATA_DIR [--every 10] [--task humaneval ...]

Prints what does not hold, and the reason where it is known to lie in the data and not in the judge.
"""

import argparse
import ast
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from submodel.calibration.sets import read_set
from submodel.tasks.code.problem import Problem, program
from submodel.tasks.code.tables import CODE
from submodel.tasks.code.task import problems_of
from submodel.tasks.judge import Judge, Verdict, missing_toolchain
from submodel.tasks.sandbox import open_sandbox

TASKS = ("humaneval", "mbpp", "humaneval-x-java", "humaneval-x-cpp", "humaneval-x-js", "humaneval+")
KNOWN = {
    ("humaneval", "HumanEval/116"): "the change leaves the order as it is",
    ("humaneval+", "HumanEval/32"): "its test unpacks a float",
    ("mbpp", "MBPP/159"): "its three tests do not reach the changed branches",
    ("mbpp", "MBPP/217"): "the changed value is not used",
    ("humaneval-x-cpp", "CPP/22"): "needs boost's headers",
    ("humaneval-x-cpp", "CPP/23"): "its tests call the C library's strlen",
    ("humaneval-x-cpp", "CPP/137"): "needs boost's headers",
    ("humaneval-x-js", "JavaScript/112"): "fails as shipped",
    ("humaneval-x-js", "JavaScript/155"): "fails as shipped",
    ("humaneval-x-js", "JavaScript/162"): "needs the npm package js-md5",
}
_OTHER = {
    "==": "!=",
    "!=": "==",
    "<=": ">",
    ">=": "<",
    "<": ">=",
    ">": "<=",
    "+": "-",
    "-": "+",
    "*": "+",
    "/": "*",
    "%": "*",
    "and": "or",
    "or": "and",
    "&&": "||",
    "||": "&&",
    "True": "False",
    "False": "True",
    "true": "false",
    "false": "true",
    "not": "",
    "0": "1",
    "1": "2",
    "2": "3",
}
# arrows, increments, templates, comments and strings are not operators to change
_TOKEN = re.compile(
    r"//.*|#.*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|=>|->|\+\+|--|<<|>>|[-+*/%]=|<[\w\s,<>:*]*>"
    r"|(?P<op>[=!<>]=|&&|\|\||[<>+*/%-]|\b(?:and|or|not|True|False|true|false|[012])\b)",
    re.DOTALL,
)
_MUTANTS = 12


@dataclass(frozen=True)
class Checked:
    """What became of one problem: the verdicts of its solution, of the emptied one and of the mutants tried."""

    problem: Problem
    solution: Verdict
    emptied: Verdict
    mutants: tuple[Verdict, ...]


def emptied(problem: Problem) -> str:
    """A text with no body."""
    assert problem.solution is not None
    if problem.language != "python":
        return problem.closing
    if problem.before:
        return "    pass\n"
    tree = ast.parse(problem.solution)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.Pass()]
    return ast.unparse(tree)


def mutants(text: str) -> Iterator[str]:
    """The text with one operator or small number changed, each in turn from the end, where results are made."""
    for match in reversed(list(_TOKEN.finditer(text))):
        if match["op"]:
            yield text[: match.start()] + _OTHER[match["op"]] + text[match.end() :]


def check(judge: Judge, problem: Problem) -> Checked:
    """Judge a problem's solution, the empty one, and mutants until one fails."""

    def run(text: str) -> Verdict:
        return judge.judge(program(problem, text, closing=False))

    assert problem.solution is not None
    tried: list[Verdict] = []
    for _, text in zip(range(_MUTANTS), mutants(problem.solution), strict=False):
        tried.append(run(text))
        if not tried[-1].passed:
            break
    return Checked(problem, run(problem.solution), run(emptied(problem)), tuple(tried))


def read_problems(name: str, data_dir: Path, every: int = 1) -> list[Problem]:
    """Every so-many-th problem of a task."""
    sets = {role: read_set(source, data_dir) for role, source in CODE[name].sets.items()}
    return problems_of(name, sets)[::every]


def complaints(found: Checked) -> list[str]:
    """What does not hold of a problem."""
    lines = []
    if not found.solution.passed:
        lines.append(f"its solution does not pass: {found.solution.status}: {found.solution.detail}")
    if found.emptied.passed:
        lines.append("an empty body passes")
    if found.mutants and all(verdict.passed for verdict in found.mutants):
        lines.append(f"{len(found.mutants)} changed operators pass")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--task", action="append")
    args = parser.parse_args()
    judge = Judge(open_sandbox())
    for name in args.task or TASKS:
        if missing := missing_toolchain(CODE[name].language):
            print(f"{name}: skipped: {missing}", flush=True)
            continue
        problems = read_problems(name, args.data_dir, args.every)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda problem: check(judge, problem), problems))
        solved = sum(one.solution.passed for one in found)
        empty = sum(not one.emptied.passed for one in found)
        changed = [one for one in found if one.mutants]
        failed = sum(not all(v.passed for v in one.mutants) for one in changed)
        print(
            f"{name}: {solved} of {len(found)} solutions pass, {empty} of {len(found)} empty ones fail, "
            f"{failed} of {len(changed)} with a changed operator fail",
            flush=True,
        )
        for one in found:
            reason = KNOWN.get((name, one.problem.id))
            for line in complaints(one):
                print(f"  {one.problem.id}: {line}{f' (known: {reason})' if reason else ''}", flush=True)


if __name__ == "__main__":
    main()
