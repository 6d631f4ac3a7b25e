"""A study: one file, a grid of extractions and evaluations, their rows and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel import study as studies
from submodel.tasks.rows import Row


@dataclass(frozen=True, repr=False)
class StudyResult:
    """Where the cells of a study stand.

    Attributes:
        cells: those that were chosen, in the order in which they run.
        rows: of those that are done.
        table: the study's table, empty after a dry run.
        summary: how many cells are done, and how long the rest will take.
    """

    cells: tuple[studies.Result, ...]
    rows: tuple[Row, ...]
    table: str
    summary: str

    def __repr__(self) -> str:
        return f"<study: {self.summary}>"


def run_study(
    file: str | Path,
    out: str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    limit: int | None = None,
    dry_run: bool = False,
    trust_remote_code: bool = False,
    unsafe_code: bool = False,
    say: Callable[[str], Any] = lambda line: None,
) -> StudyResult:
    """Run the cells of a study that are not done yet, each in a process of its own.

    Args:
        file: the study, TOML (docs/guide/studies.md).
        out: for its stores, rows, records and logs; `file` without .toml if None.
        settings: KEY=VALUE, put into the file's place, such as data=DIR or models.smol=DIR.
        only: parts of the names of cells, or globs; what those need is run as well. All cells if there is none.
        limit: run so many cells at most.
        dry_run: run none; only say where they stand.
        trust_remote_code: run code that is shipped with the models.
        unsafe_code: run model-written code even where nothing isolates it.
        say: told in a line what begins and what came of it.

    Raises:
        SubmodelError: a file that makes no sense, models or text that are not there, an `out` that holds other cells,
            or one that another process runs. A cell that fails raises nothing: its state is "failed".
    """
    given = studies.read_study(Path(file), list(settings))
    folder = Path(out or given.file.with_suffix("")).resolve()
    bases = studies.open_bases(given, trust_remote_code)
    cells = studies.plan(given, folder, bases, trust_remote_code=trust_remote_code, unsafe_code=unsafe_code)
    chosen = studies.select(cells, *only)
    records = studies.Records(folder)
    records.refuse_other_bases(bases)
    records.refuse_others(cells)
    if dry_run:
        results = studies.standing(chosen, records, cells)
        return StudyResult(tuple(results), (), "", studies.summary(results))
    with records.lock():
        results = studies.run(chosen, records, plan=cells, limit=limit, say=say)
    rows = tuple(row for cell in cells for row in records.rows_of(cell))
    return StudyResult(tuple(results), rows, studies.study_table(given, cells, records), studies.summary(results))
