"""Rows of results -> a table of text."""

from collections.abc import Iterable

from submodel.tasks.rows import Row


def table(rows: Iterable[Row]) -> str:
    """One line a sub-model, one column a task and data set: value and 95% interval."""
    rows = list(rows)
    columns = list(dict.fromkeys((row.metric, row.data["name"]) for row in rows))
    models = list(dict.fromkeys((row.model, row.submodel) for row in rows))
    cells = {((row.model, row.submodel), (row.metric, row.data["name"])): row for row in rows}
    several = len({model for model, _ in models}) > 1
    head = ["sub-model", *(f"{metric} {_short(name)}" for metric, name in columns)]
    lines = [head]
    for model in models:
        name = f"{model[1]} ({_short(model[0])})" if several else model[1]
        line = [name]
        for column in columns:
            row = cells.get((model, column))
            line.append(_cell(row) if row else "-")
        lines.append(line)
    note = sorted({f"{row.n:,} {_counted(row)} of {_short(row.data['name'])}" for row in rows})
    return f"{aligned(lines)}\n95% intervals in brackets; {'; '.join(note)}" if rows else "no rows"


def _cell(row: Row) -> str:
    """Perplexities as they are; everything else is a rate or a score from 0 to 1 and shown in per cent."""
    scale, digits = (1, 2) if row.metric == "perplexity" else (100, 1)
    value, low, high = (f"{scale * x:.{digits}f}" for x in (row.value, row.low, row.high))
    return f"{value}{'%' if scale == 100 else ''} [{low}, {high}]"


def _counted(row: Row) -> str:
    return "tokens" if row.metric == "perplexity" else "problems"


def aligned(lines: list[list[str]]) -> str:
    """Cells as columns of text: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def _short(name: str) -> str:
    path, colon, column = name.rpartition(":")
    parts = (path if colon else name).rstrip("/").split("/")
    return "/".join(parts[-2:]) + (f":{column}" if colon else "")
