"""The run: every contender in a process of its own, all of them in turns, so that whatever else the machine does falls
on all alike.

A round is, for one contender after another, the prefill of one prompt and some steps of greedy decoding after it. The
first round warms up and is not counted. Figures are medians over the rounds with a bootstrap interval; tasks follow,
one contender after another.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from submodel.base.models import Base
from submodel.bench import peer
from submodel.bench.child import Child
from submodel.bench.contender import Contender
from submodel.errors import SubmodelError
from submodel.tasks import parse_task
from submodel.tasks.cell import Cell, Task
from submodel.tasks.rows import Row, append_rows


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        threads: of each contender.
        rounds: that count.
        prompt_tokens, new_tokens: of a round.
        tasks: measured after the speed, as `eval` does.
        settings: of the tasks (fields of `tasks.cell.Settings`).
        trust_remote_code: let code that is shipped with a model run.
        llama_python: the interpreter that has llama_cpp.
    """

    threads: int = 1
    rounds: int = 10
    prompt_tokens: int = 256
    new_tokens: int = 16
    tasks: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    llama_python: str = sys.executable


def run(
    contenders: Sequence[Contender],
    plan: Plan,
    out: Path,
    bases: Mapping[str, Base],
    say: Callable[[str], Any] = lambda line: None,
    progress: Callable[[str, int, int], Any] = lambda what, done, total: None,
) -> Iterator[Row]:
    """Measure all contenders; rows are appended to `out` and yielded, those of tasks that are there already as well.

    `bases` are the opened bases of llama.cpp's contenders, by reference. One that fails is left out, and `say` is
    told why.

    Raises SubmodelError when another contender cannot be loaded or its process dies.
    """
    with ExitStack() as stack:
        running = [(contender, stack.enter_context(closing(_child(contender, plan)))) for contender in contenders]
        for contender, child in running:
            child.send(
                "start",
                contender=asdict(contender),
                threads=plan.threads,
                prompt_tokens=plan.prompt_tokens,
                new_tokens=plan.new_tokens,
                trust_remote_code=plan.trust_remote_code,
            )
        # rounds: all contenders in turns; the first round warms up
        taken: dict[Contender, list[dict[str, Any]]] = {contender: [] for contender in contenders}
        for done, (contender, child) in enumerate([*running]):
            progress("loading", done, len(contenders))
            with _left_out(contender, running, say):
                child.receive()
        for done in range(plan.rounds + 1):
            progress("measuring", done, plan.rounds + 1)
            for contender, child in [*running]:
                with _left_out(contender, running, say):
                    taken[contender].append(child.ask("measure"))
        # speed and size of each
        for contender, child in running:
            size = child.ask("size")
            if contender.engine == "llama.cpp":
                size |= {
                    "row": asdict(_cell(contender, Task("bench"), plan, out, bases).row("", {"name": "speed"}, {}))
                }
            rows = speed_rows(size, taken[contender][1:], plan)
            append_rows(out, rows)
            yield from rows
        # tasks, one contender after another
        for contender, child in [*running]:
            for done, task in enumerate(plan.tasks):
                progress(f"{task} of {contender.title}", done, len(plan.tasks))
                new: list[Row] = []
                old: list[Row] = []
                if (contender, child) not in running:
                    break
                with _left_out(contender, running, say):
                    if contender.engine == "llama.cpp":
                        new, old = peer.quality_rows(child, _cell(contender, parse_task(task), plan, out, bases))
                    else:
                        answer = child.ask("rows", task=task, settings=plan.settings, out=str(out))
                        new, old = ([Row(**row) for row in answer[part]] for part in ("new", "old"))
                append_rows(out, new)
                yield from [*new, *old]


@contextmanager
def _left_out(
    contender: Contender, running: list[tuple[Contender, Child]], say: Callable[[str], Any]
) -> Iterator[None]:
    """A failure of llama.cpp ends its own part only."""
    try:
        yield
    except SubmodelError as error:
        if contender.engine != "llama.cpp":
            raise
        say(f"left out: {error}")
        running[:] = [one for one in running if one[0] != contender]


def _child(contender: Contender, plan: Plan) -> Child:
    ours = [sys.executable, "-m", "submodel.bench.ours"]
    command = peer.command(plan.llama_python) if contender.engine == "llama.cpp" else ours
    return Child(contender.title, command, plan.threads)


def _cell(contender: Contender, task: Task, plan: Plan, out: Path, bases: Mapping[str, Base]) -> Cell:
    assert contender.base is not None and contender.form is not None
    return peer.cell(bases[contender.base], contender.form, task, plan.settings, out)


def speed_rows(size: dict[str, Any], taken: Sequence[dict[str, Any]], plan: Plan) -> list[Row]:
    """A contender's size and its counted rounds -> its rows."""
    about = Row(**size["row"])
    settings = {"prompt_tokens": plan.prompt_tokens, "new_tokens": plan.new_tokens, "threads": plan.threads}
    about = replace(
        about, settings={**about.settings, **settings}, machine=f"{size['row']['machine'].rpartition(', ')[0]}"
    )
    prefill = plan.prompt_tokens / np.array([one["prefill"] for one in taken])
    decode = 1 / np.array([np.median(one["steps"]) for one in taken])
    spent = sum(one["prefill"] + sum(one["steps"]) for one in taken)
    rows: list[Row] = []
    for metric, values, n in (
        ("weight_bytes", size["weight_bytes"], 1),
        ("resident_bytes", size["resident_bytes"], 1),
        ("prefill_tokens_s", prefill, len(taken)),
        ("decode_tokens_s", decode, len(taken) * plan.new_tokens),
    ):
        if values is None:
            continue
        value, low, high = _median(np.atleast_1d(np.asarray(values, dtype=float)))
        rows.append(replace(about, metric=metric, value=value, low=low, high=high, n=n, seconds=round(spent, 2)))
    return rows


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """The median over rounds and its 95% interval, by the bootstrap."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)
