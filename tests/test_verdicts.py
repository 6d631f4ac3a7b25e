"""The judge says of programs that play fair what plain CPython says; `python -m tests.verdicts` runs all of them."""

from pathlib import Path

import pytest

from submodel.errors import SubmodelError
from submodel.tasks.judge import Judge
from submodel.tasks.sandbox import open_sandbox
from tests.verdicts import TASKS, VALUES, WHOLE, differences, plain_verdict, programs, solutions


@pytest.fixture(scope="module")
def judge() -> Judge:
    try:
        return Judge(open_sandbox())
    except SubmodelError as error:
        pytest.skip(str(error))


def test_programs_of_every_kind_of_result(judge: Judge):
    cases = [(f"program {i}", one) for i, one in enumerate(programs(2 * len(VALUES)))]
    assert differences(judge, cases) == []
    plain = [plain_verdict(one) for _, one in cases[len(WHOLE) :]]
    assert any(plain) and not all(plain), "both verdicts are met"


@pytest.mark.data
@pytest.mark.parametrize("name", TASKS)
def test_solutions_of_the_data_sets(name: str, judge: Judge, data_dir: Path):
    assert differences(judge, solutions(name, data_dir, every=40)) == []
