"""Measure models, and print what was measured."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from submodel import bench
from submodel.errors import SubmodelError, unknown_name
from submodel.report import table
from submodel.tasks import evaluate as measure
from submodel.tasks import parse_task
from submodel.tasks.cell import Progress, Settings
from submodel.tasks.rows import Row, read_rows


@dataclass(frozen=True, repr=False)
class Evaluation:
    """The rows of an evaluation; iterating yields all of them.

    Attributes:
        new: measured now.
        already: those that were in the file before.
    """

    new: tuple[Row, ...]
    already: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter((*self.already, *self.new))

    def __len__(self) -> int:
        return len(self.already) + len(self.new)

    def __repr__(self) -> str:
        return f"<{len(self)} rows, {len(self.new)} of them new: print(submodel.report(...)) shows them>"


def evaluate(
    models: str | Sequence[str],
    tasks: str | Sequence[str],
    out: str | Path | None = None,
    *,
    base: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], Any] = lambda line: None,
    **settings: Any,
) -> Evaluation:
    """Measure models on tasks.

    Args:
        models: directories, hub ids, .gguf files or `STORE@NAME`.
        tasks: such as "perplexity:PATH[:COLUMN]", "perplexity:SET/SPLIT" or "humaneval".
        out: a file of rows, appended to; what it holds already is not measured again. None keeps no file.
        base: where a store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with a model run.
        progress: called with (what, done, total).
        say: called with a line for the user.
        settings: fields of `submodel.tasks.cell.Settings`, such as tokens=8192, seq_len=512, limit=20, data_dir=PATH,
            chat=True or weight_format="int8".

    Raises:
        SubmodelError: a bad model, task, setting or data, or text that a sub-model was calibrated on.
    """
    known = {field.name for field in fields(Settings)}
    for name in settings:
        if name not in known:
            raise unknown_name("setting of an evaluation", name, known)
    parsed = [parse_task(task) for task in ([tasks] if isinstance(tasks, str) else tasks)]
    references = [models] if isinstance(models, str) else [*models]
    already: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(
            references,
            parsed,
            Path(out) if out is not None else Path(folder) / "rows.jsonl",
            Settings(**settings),
            base=base,
            trust_remote_code=trust_remote_code,
            progress=progress,
            say=say,
            already=lambda row: already.update({row.key: row}),
        )
        return Evaluation(tuple(rows), tuple(already.values()))


def report(
    rows: Iterable[Row] | str | Path | Sequence[str | Path],
    *,
    against: str | None = None,
    won_back: str | None = None,
    markdown: bool = False,
) -> str:
    """The table of results: a line a sub-model, a column a metric and data set.

    Args:
        rows: what `evaluate` or `benchmark` returned, or the files that they wrote.
        against: a sub-model or "dense": the others show how they differ from it, piece by piece.
        won_back: a sub-model: the others show how much of what it loses against dense each wins back.
        markdown: a table of Markdown.

    Raises:
        SubmodelError: no such file, no row of `against`, or both `against` and `won_back`.
    """
    if against is not None and won_back is not None:
        raise SubmodelError("against and won_back: give one of the two")
    measured = rows_of(rows)
    compared = against if won_back is None else won_back
    if any(row.task == "bench" for row in measured) and compared is None:
        return bench.table(measured, markdown=markdown)
    results = [row for row in measured if row.task != "bench"]
    return table(results, against=compared, won_back=won_back is not None, markdown=markdown)


def rows_of(rows: Iterable[Row] | str | Path | Sequence[str | Path]) -> list[Row]:
    """Rows, read from their files if that is what is given. Raises SubmodelError for a file that is not there."""
    result: list[Row] = []
    for item in [rows] if isinstance(rows, str | Path) else rows:
        if isinstance(item, Row):
            result.append(item)
        elif Path(item).is_file():
            result += read_rows(Path(item))
        else:
            raise SubmodelError(f"{item}: no such file: give the rows that submodel eval wrote")
    return result


def benchmark(
    models: Sequence[str],
    out: str | Path,
    formats: Sequence[str] = ("bf16", "int8", "int4"),
    plan: bench.Plan = bench.Plan(),  # noqa: B008
    *,
    gguf: str | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], Any] = lambda line: None,
) -> list[Row]:
    """Compare speed, memory and quality of models and their bases in one interleaved run.

    Args:
        models: directories, hub ids, .gguf files or `STORE@NAME`.
        out: the file that rows are appended to.
        formats: that sub-models are packed in.
        plan: threads, rounds, lengths and tasks.
        gguf: the base as GGUF; llama.cpp takes part with it, where it is installed.
        base: where a store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with a model run.
        progress: called with (what, done, total).
        say: called with a line for the user.

    Raises:
        SubmodelError: a bad model, format or task, or a process that died.
    """
    bases: dict[str, Any] = {}
    contenders = bench.contenders([*models], [*formats], bases, base, trust_remote_code)
    contenders += bench.llama_contenders(bases, plan.llama_python, gguf, Path(out), say)
    return list(bench.run(contenders, plan, Path(out), bases, say, progress))
