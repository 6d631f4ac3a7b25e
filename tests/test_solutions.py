"""A part of the real data sets' own solutions through the judge; `python -m tests.solutions` runs all of them."""

from pathlib import Path

import pytest

from submodel.errors import SubmodelError
from submodel.tasks.code.problem import program
from submodel.tasks.code.tables import CODE
from submodel.tasks.judge import Judge, missing_toolchain
from submodel.tasks.sandbox import open_sandbox
from tests.solutions import KNOWN, TASKS, check, complaints, mutants, read_problems


@pytest.fixture(scope="module")
def judge() -> Judge:
    try:
        return Judge(open_sandbox())
    except SubmodelError as error:
        pytest.skip(str(error))


@pytest.mark.data
@pytest.mark.parametrize("name", TASKS)
def test_solutions_pass_and_broken_ones_fail(name: str, judge: Judge, data_dir: Path):
    if missing := missing_toolchain(CODE[name].language):
        pytest.skip(missing)
    problems = read_problems(name, data_dir, every=40)
    assert len(problems) >= 4
    for problem in problems:
        assert (name, problem.id) in KNOWN or not complaints(check(judge, problem)), problem.id


@pytest.mark.data
def test_gaps_are_those_of_single_line_infilling(judge: Judge, data_dir: Path):
    """Their number is that of the published benchmark (arXiv 2207.14255, section 3.1)."""
    gaps = read_problems("humaneval-fim", data_dir)
    assert len(gaps) == 1033
    for gap in gaps[::150]:
        assert gap.solution is not None
        assert judge.judge(program(gap, gap.solution)).passed, gap.id
        assert not judge.judge(program(gap, "    this is no Python")).passed, gap.id


def test_mutants_leave_strings_and_comments_alone():
    assert list(mutants("x = a + 1  # + 1\ny = 'a+b'")) == [
        "x = a + 2  # + 1\ny = 'a+b'",
        "x = a - 1  # + 1\ny = 'a+b'",
    ]
    assert list(mutants("vector<int> v; i++; // <\n")) == []
