"""Rows of a comparison -> one table: a line a contender, a column a figure."""

import json
from collections.abc import Iterable, Sequence

from submodel.report import distinct_names, drawn, without
from submodel.tasks.rows import Row

_HEADS = {
    "weight_bytes": "weights MB",
    "resident_bytes": "resident MB",
    "prefill_tokens_s": "prefill tok/s",
    "decode_tokens_s": "decode tok/s",
}


def line_of(row: Row) -> tuple[str, str, str]:
    """(sub-model, program, format) of a row: what makes a line; `eval`'s rows belong to these lines as well."""
    form = row.settings.get("format")
    if form is None:
        return row.submodel, "transformers", row.settings["dtype"]
    foreign = form.startswith("llama.cpp ")
    return row.submodel, "llama.cpp" if foreign else "submodel", form.removeprefix("llama.cpp ")


def table(rows: Iterable[Row], *, markdown: bool = False) -> str:
    """A line a contender, a column a figure with its 95% interval; of two rows of the same thing the last counts."""
    rows = list(rows)
    lines = list(dict.fromkeys(line_of(row) for row in rows))
    columns: dict[str, Row] = {}
    for row in rows:
        columns.setdefault(_column(row), row)
    cells = {(line_of(row), _column(row)): row for row in rows}
    plain = [_HEADS.get(row.metric, f"{row.metric} {_short(row.data['name'])}") for row in columns.values()]
    text = [["model", "program", "format", *distinct_names([_shared(row) for row in columns.values()], plain)]]
    for line in lines:
        text.append([*line, *(_cell(cells.get((line, column))) for column in columns)])
    speed = [row for row in rows if row.task == "bench"]
    return drawn([text], _notes(speed), markdown)


def _shared(row: Row) -> Row:
    return without(row, "format", "dtype")


def _column(row: Row) -> str:
    """Equal for rows that can be compared."""
    return json.dumps([row.task, row.metric, row.data, _shared(row).settings], sort_keys=True)


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.metric.endswith("_bytes"):
        return f"{row.value / 1e6:,.0f}"
    percent = row.task != "bench" and row.metric != "perplexity"
    scale, digits = (100, 1) if percent else (1, 1 if row.task == "bench" else 2)
    value, low, high = (f"{scale * x:.{digits}f}" for x in (row.value, row.low, row.high))
    return f"{value}{'%' if percent else ''} [{low}, {high}]"


def _notes(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    s = rows[-1].settings
    return [
        f"{rows[-1].machine}; {s['threads']} threads a contender; medians of rounds taken in turns, 95% intervals in "
        f"brackets; prefill of {s['prompt_tokens']} tokens, then {s['new_tokens']} steps of one sequence",
        "weights: bytes of the model on disk in that form; resident: what loading and running it added to its process",
    ]


def _short(name: str) -> str:
    return "/".join(name.rstrip("/").split("/")[-2:])
