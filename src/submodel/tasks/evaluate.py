"""Evaluate models on tasks: rows of results; rows already measured are skipped, calibration rows are refused."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from submodel.base.models import Base
from submodel.calibration import problem_text
from submodel.calibration.sets import NamedSet, is_stored, read_set
from submodel.errors import SubmodelError, unknown_name
from submodel.runtime import Loaded, load
from submodel.tasks.bits_per_byte import bits_per_byte_rows
from submodel.tasks.cell import Cell, Progress, Settings, Task
from submodel.tasks.code import CODE, code_rows
from submodel.tasks.harness import GSM8K, HARNESS, SETS
from submodel.tasks.layer_error import layer_error_rows
from submodel.tasks.perplexity import perplexity_rows
from submodel.tasks.rows import Row, append_rows, read_rows
from submodel.tasks.translation import PAIRS, TRANSLATION

TASKS: dict[str, Callable[[Cell], Iterable[Row]]] = {
    "perplexity": perplexity_rows,
    "repository": perplexity_rows,
    "bits-per-byte": bits_per_byte_rows,
    "layer-error": layer_error_rows,
    **dict.fromkeys(CODE, code_rows),
    **HARNESS,
    **TRANSLATION,
}
ON_TEXT = ("perplexity", "bits-per-byte", "layer-error")
"""Tasks that are given text as `read_held_out` takes it."""

_TAKES = {
    **dict.fromkeys(ON_TEXT, "PATH[:COLUMN] or SET/SPLIT"),
    "repository": "PATH[:LANGUAGE]",
    "translation": "[FORM]",
}


def parse_task(spec: str) -> Task:
    """`humaneval` or `perplexity:PATH[:COLUMN]` -> Task.

    Raises SubmodelError for an unknown task, one without the text it needs, or one with text that it does not take.
    """
    name, _, rest = spec.partition(":")
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    takes = _TAKES.get(name, "")
    if takes and not takes.startswith("[") and not rest:
        raise SubmodelError(f"task {spec!r}: on which text? give {name}:{takes}")
    if rest and not takes:
        raise SubmodelError(f"task {spec!r}: {name} has its own data: give {name} alone")
    return Task(name, rest)


def sets_of(task: Task) -> list[NamedSet]:
    """The named sets that a task reads."""
    if task.name in CODE:
        return list(CODE[task.name].sets.values())
    sets = {**{name: [source] for name, source in SETS.items()}, "csr": list(SETS.values()), "gsm8k": [GSM8K]}
    return [PAIRS] if task.name in TRANSLATION else sets.get(task.name, [])


def problems_in(data_dir: Path) -> dict[str, list[str]]:
    """The text of every problem of the tasks whose named sets lie in a data directory: SET/SPLIT -> problems."""
    sets = {source: None for name in TASKS for source in sets_of(Task(name)) if is_stored(source, data_dir)}
    return {
        source.file.removesuffix(".jsonl"): [problem_text(row) for row in read_set(source, data_dir).rows]
        for source in sets
    }


def evaluate(
    references: list[str],
    tasks: list[Task],
    out: Path,
    settings: Settings,
    *,
    base: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], Any] = lambda line: None,
    already: Callable[[Row], Any] = lambda row: None,
) -> Iterator[Row]:
    """Measure every model on every task; each new row is appended to `out` and yielded.

    `already` is told of each row that is there and therefore not measured again, perhaps more than once.

    Raises:
        SubmodelError: bad model, task or data, or evaluation text that a sub-model was calibrated on.
    """
    measured = {row.key: row for row in read_rows(out)}
    opened: dict[str, Base] = {}
    shared: dict[Any, Any] = {}
    for reference in references:
        loaded = load(
            reference,
            dtype=settings.dtype,
            device=settings.device,
            base=base,
            trust_remote_code=trust_remote_code,
            opened=opened,
            weight_format=settings.weight_format,
            complete_head=True,
        )
        report_measured = _measured_reporter(loaded, measured, out, say, already)
        for task in tasks:
            cell = Cell(
                task,
                loaded,
                settings,
                out,
                frozenset(measured),
                progress,
                say,
                shared,
                report_measured,
                base,
            )
            for row in TASKS[task.name](cell):
                append_rows(out, [row])
                yield row
        del loaded


def _measured_reporter(
    loaded: Loaded, measured: dict[str, Row], out: Path, say: Callable[[str], Any], already: Callable[[Row], Any]
) -> Callable[[str], None]:
    """What reports a row that is measured already; it says once where such rows have the name of another sub-model."""
    names = {loaded.name}

    def report(key: str) -> None:
        row = measured[key]
        if row.submodel not in names:
            names.add(row.submodel)
            say(f"{loaded.reference}: its masks are those of {row.submodel}, whose rows are in {out} already")
        already(row)

    return report
