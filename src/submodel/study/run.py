"""Run a study's cells one by one; a failed one is kept in mind and the others go on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from submodel.report import table
from submodel.study.cost import duration, estimate
from submodel.study.grid import Study
from submodel.study.plan import Cell
from submodel.study.records import Records
from submodel.study.submit import Submit, submit

State = Literal["done", "to do", "failed", "waiting"]


@dataclass(frozen=True)
class Result:
    """Where a cell stands.

    Attributes:
        cell: the cell.
        state: its result is there | it was not run yet | it failed | what it needs is not there.
        seconds, peak_bytes: what its process took, if it ran.
        estimate: seconds that it will take, if that can be said.
        reason: why it failed or waits.
        log: of a failed one: the file that holds its messages.
    """

    cell: Cell
    state: State
    seconds: float | None = None
    peak_bytes: int | None = None
    estimate: float | None = None
    reason: str | None = None
    log: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shown = ("state", "seconds", "peak_bytes", "estimate", "reason")
        return {"cell": self.cell.name, **{name: getattr(self, name) for name in shown}, "argv": self.cell.argv}


def standing(cells: Sequence[Cell], records: Records, plan: Sequence[Cell] | None = None) -> list[Result]:
    """Where every cell stands now, with estimates for those not done, by the finished ones of the whole plan."""
    every = {cell.name: (cell, records.is_done(cell), records.read(cell)) for cell in plan or cells}
    measured = [(cell.work, record["seconds"]) for cell, done, record in every.values() if done and record.get("whole")]
    outcomes = [every[cell.name] for cell in cells]
    failed = {cell.name: record["failed"] for cell, done, record in outcomes if not done and record.get("failed")}

    def stand(cell: Cell, done: bool, record: dict[str, Any]) -> Result:
        result = Result(cell, "done", record.get("seconds"), record.get("peak_bytes"))
        if done:
            return result
        result = replace(result, state="to do", estimate=estimate(cell.work, measured))
        if not records.is_ready(cell) and cell.needs in failed:
            return replace(result, state="waiting", reason=f"{cell.needs} failed")
        if cell.name in failed:
            return replace(result, state="failed", reason=failed[cell.name], log=records.log(cell))
        return result

    return [stand(*each) for each in outcomes]


def run(
    cells: Sequence[Cell],
    records: Records,
    *,
    plan: Sequence[Cell] | None = None,
    limit: int | None = None,
    submit: Submit = submit,
    say: Callable[[str], Any] = lambda line: None,
) -> list[Result]:
    """Run what is not done, in order.

    Args:
        cells: a plan, or a part of one with the extractions that it needs.
        records: what is done already.
        plan: `cells` and all others, whose finished ones tell what others will take; `cells` if None.
        limit: run so many cells at most.
        submit: how to run one.
        say: told a line when a cell starts and when it ends.

    Returns:
        Where every cell stands in the end.
    """
    started = 0
    for number, cell in enumerate(cells, start=1):
        if records.is_done(cell) or not records.is_ready(cell):  # then its extraction has just failed
            continue
        if started == limit:
            break
        started += 1
        say(f"[{number}/{len(cells)}] {cell.name}")
        records.start(cell)
        outcome = submit(cell, records.log(cell))
        reason = records.finish(cell, outcome)
        took = f"{duration(outcome.seconds)}, peak memory {outcome.peak_bytes / (1 << 20):,.0f} MiB"
        say(f"    {took}" if reason is None else f"    failed after {took}: {reason}")
    return standing(cells, records, plan)


def summary(results: Sequence[Result]) -> str:
    """How many cells there are, how many are done, and what the others will take."""
    remaining = [result for result in results if result.state != "done"]
    text = f"{len(results)} cells, {len(results) - len(remaining)} done"
    text += "".join(f", {n} {s}" for s in ("failed", "waiting") if (n := sum(r.state == s for r in results)))
    if not remaining:
        return text
    known = [result.estimate for result in remaining if result.estimate is not None]
    unknown = len(remaining) - len(known)
    return f"{text}; the rest will take about {duration(sum(known))}" + (
        f" and {unknown} cells of which nothing like them was measured yet" if unknown else ""
    )


def study_table(study: Study, cells: Sequence[Cell], records: Records) -> str:
    """A table a model of all rows that are there: the base, then its sub-models as the plan has them."""
    names = _names_of_texts(study)
    parts = [study.title]
    for model in study.models:
        rows = [row for cell in cells if cell.model == model for row in records.rows_of(cell)]
        parts.append(f"{model}\n{table(rows, names)}")
    return "\n\n".join(parts)


def _names_of_texts(study: Study) -> dict[str, str]:
    """Text -> the task that names its column: the first one, if others on it differ in the model's format alone."""
    columns: dict[str, dict[str, str]] = {}
    for name, (task, options) in study.tasks.items():
        settings = {key: value for key, value in options.items() if key != "format"}
        columns.setdefault(task.spec, {}).setdefault(json.dumps(settings, sort_keys=True), name)
    return {
        text: name for text, outcomes in columns.items() if text and len(outcomes) == 1 for name in outcomes.values()
    }
