"""Rows of results -> tables of text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from submodel.errors import SubmodelError
from submodel.store.calibration import stand_ins
from submodel.tasks.intervals import bootstrap, ratio
from submodel.tasks.rows import Row

EXTRACTION = "extract"  # the task of the rows that say what an extraction took
_BITS = "bits per byte"
_ACROSS = "all models on the same bytes"
_LOSSES = (
    "perplexity",
    "layer error",
    _BITS,
)  # the lower the better, of tokens; others are rates and scores of problems
_TOOK = {"seconds": "extraction", "peak_bytes": "peak memory"}


class Line(NamedTuple):
    """What a line of a table shows: a sub-model or the base, by name and masks, and how it was kept in memory."""

    name: str
    masks: str | None
    format: str | None


def table(
    rows: Iterable[Row],
    names: Mapping[str, str] | None = None,
    against: str | None = None,
    *,
    won_back: bool = False,
    markdown: bool = False,
) -> str:
    """A table a model: a line a sub-model and format in memory, a column a metric, data set and other settings: value
    and 95% interval.

    Args:
        rows: results of `eval` or of a study; of two of the same thing the last counts.
        names: data set -> how its column calls it, where that is not the end of its path.
        against: a line by its name, such as a sub-model's or "dense": the others then show how they differ from it,
            piece by piece. In the table of several models on the same bytes a line is called MODEL NAME.
        won_back: of what the line `against` loses against dense, the share that each of the others wins back, instead.
        markdown: tables of Markdown.

    Raises:
        SubmodelError: no row of `against`, two sub-models of one base that are called so, or nothing to win back.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.weights, []).append(row)
    if across := _across(groups.values()) if not won_back else []:
        groups[_ACROSS] = across
    if against is not None and not any(_line_called(against, _lines(group)) for group in groups.values()):
        have = ", ".join(sorted({_called(line, _lines(group)) for group in groups.values() for line in _lines(group)}))
        raise SubmodelError(f"{against!r}: no row of it: there are {have or 'none'}")
    tables = [_table(group, names or {}, against, won_back, markdown) for group in groups.values()]
    if len(tables) > 1:
        gap = "\n\n" if markdown else "\n"
        heads = [_ACROSS if key == _ACROSS else _short(group[-1].model) for key, group in groups.items()]
        tables = [f"{head}{gap}{text}" for head, text in zip(heads, tables, strict=True)]
    return "\n\n".join(tables) or "no rows"


def _across(groups: Iterable[list[Row]]) -> list[Row]:
    """The rows of bits per byte that several models have of the same text, each under its model's name as well.

    Of all that is measured these alone compare models of other tokens: they are of the same bytes.
    """
    rows = [row for group in groups for row in group if row.metric == _BITS]
    models: dict[str, set[str]] = {}
    for row in rows:
        models.setdefault(_column(row), set()).add(row.weights)
    return [
        replace(row, submodel=f"{_short(row.model)} {row.submodel}", masks=f"{row.weights} {row.masks}")
        for row in rows
        if len(models[_column(row)]) > 1
    ]


def _table(rows: list[Row], names: Mapping[str, str], against: str | None, won_back: bool, markdown: bool) -> str:
    columns: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.task == EXTRACTION):
        columns.setdefault(_column(row), row)
    cells = {(_line(row), _column(row)): row for row in rows}
    lines = _lines(rows)
    text = [["sub-model", *_heads(list(columns.values()), names)]]
    base = _line_called(against, lines)
    bases = {_column(row): row for row in rows if _line(row) == base}
    dense = {_column(row): row for row in rows if base and _line(row) == Line("dense", None, base.format)}
    if won_back and base and (not dense or base.name == "dense"):
        raise SubmodelError(f"{against!r}: nothing to win back: give a sub-model, beside it rows of dense kept like it")
    for line in lines:
        shown = [_called(line, lines)]
        for column in columns:
            row, other = cells.get((line, column)), bases.get(column)
            if row is None:
                shown.append("-")
            else:
                shown.append(_won_back(row, other, dense.get(column)) if won_back else _against(row, other))
        text.append(shown)
    by_column = [cells[line, column] for column in columns for line in lines if (line, column) in cells]
    results = [row for row in by_column if row.task != EXTRACTION]
    notes = _once(f"{row.n:,} {_counted(row)} of {_name(row, names)}" for row in results)
    notes = [f"95% intervals in brackets; {'; '.join(notes)}"] if notes else []
    by_line = sorted(by_column, key=lambda row: lines.index(_line(row)))
    notes += _stand_in_note(by_line, results)
    if bases and won_back:
        notes.append(f"won: of what {against} loses against dense on the same windows, problems or matrices")
    elif bases:
        notes.append(f"with a sign: difference from {against} on the same windows, problems or matrices")
    if len(results) < len(by_column):
        notes.append("extraction, peak memory: of the process that made the sub-model and those of the other domains")
    if any(row.settings.get("resumed_blocks") for row in rows if row.task == EXTRACTION):
        notes.append(">: an earlier process, which was interrupted, had done a part of it")
    begun = {row.submodel: row.settings["mask_of"] for row in by_line if row.settings.get("mask_of")}
    notes += [
        f"{name}: begun with {mask}'s mask, whose seconds are counted; its peak memory is not"
        for name, mask in begun.items()
    ]
    kinds = [
        _kinds([row for row in results if _column(row) == column], head, lines)
        for column, head in zip(columns, text[0][1:], strict=True)
    ]
    return drawn([text, *(part for part in kinds if part)], notes, markdown)


def drawn(tables: Sequence[list[list[str]]], notes: Sequence[str], markdown: bool) -> str:
    """The first table with its notes, then the others."""
    first, *others = (piped(table) if markdown else aligned(table) for table in tables)
    first = ("\n\n" if markdown else "\n").join([first, *notes])
    return "\n\n".join([first, *others])


def _stand_in_note(by_line: Sequence[Row], results: Sequence[Row]) -> list[str]:
    """One note for all sets that were not read themselves; a manifest and a row say what was read instead."""
    used = _once(f"{_set_of(note)} (calibration of {row.submodel})" for row in by_line for note in row.notes)
    used += _once(f"{_set_of(note)} (text)" for row in results for note in stand_ins(row.data))
    return [f"read as stand-ins, see submodel info: {', '.join(used)}"] if used else []


def _set_of(note: str) -> str:
    """The set that a line of `stand_ins` speaks of."""
    return note.partition(" (")[0]


def _once(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(lines))


def _kinds(rows: list[Row], head: str, lines: list[Line]) -> list[list[str]]:
    """The table of a layer error: a line a sub-model, a column a kind of matrix."""
    kinds = _once(kind for row in rows for kind in row.kinds or ())
    if not kinds:
        return []
    text = [[head, *kinds]]
    text += [
        [_called(_line(row), lines), *(f"{100 * row.kinds[kind]:.1f}%" if kind in row.kinds else "-" for kind in kinds)]
        for row in rows
        if row.kinds
    ]
    return text


def _line(row: Row) -> Line:
    return Line(row.submodel, row.masks, row.settings.get("format"))


def _lines(rows: Iterable[Row]) -> list[Line]:
    """The base, then its sub-models as they came; formats follow what they are of."""
    lines = list(dict.fromkeys(_line(row) for row in rows))
    models = list(dict.fromkeys([("dense", None), *(line[:2] for line in lines)]))
    return sorted(lines, key=lambda line: (models.index(line[:2]), line.format is not None))


def _line_called(name: str | None, lines: list[Line]) -> Line | None:
    """The line that is meant. Raises SubmodelError when there are several."""
    matches = [line for line in lines if name == _called(line, lines)] or [line for line in lines if name == line.name]
    if len(matches) > 1:
        called = " or ".join(repr(_called(line, lines)) for line in matches)
        raise SubmodelError(f"{name}: there are {len(matches)} of that name: give {called}")
    return matches[0] if matches else None


def _called(line: Line, lines: list[Line]) -> str:
    """A sub-model's name, with its masks' digest where several have this name; and its format, if it has one."""
    alone = len({other.masks for other in lines if other.name == line.name}) == 1
    name = line.name if alone or line.masks is None else f"{line.name} ({line.masks[:8]})"
    return f"{name}, {line.format}" if line.format else name


def _column(row: Row) -> str:
    """Equal for rows that can be compared."""
    what: list[Any] = [row.task, row.metric]
    return json.dumps(
        what if row.task == EXTRACTION else [*what, row.data, without(row, "format").settings], sort_keys=True
    )


def without(row: Row, *settings: str) -> Row:
    """A row without the settings that make its line."""
    return replace(row, settings={key: value for key, value in row.settings.items() if key not in settings})


def _heads(columns: list[Row], names: Mapping[str, str]) -> list[str]:
    """Metric and data; where several columns share them, also the data and settings in which these differ."""
    plain = [_TOOK[row.metric] if row.task == EXTRACTION else f"{row.metric} {_name(row, names)}" for row in columns]
    return distinct_names([without(row, "format") for row in columns], plain)


def distinct_names(columns: list[Row], plain: list[str]) -> list[str]:
    """Heads of columns: where several are alike, also the data and settings in which their rows differ."""
    heads: list[str] = []
    for row, head in zip(columns, plain, strict=True):
        alike = [{**r.data, **r.settings} for r, other in zip(columns, plain, strict=True) if other == head]
        fields = {**row.data, **row.settings}
        differing = [key for key in fields if any(one.get(key) != fields[key] for one in alike)]
        telling = [key for key in differing if not key.startswith("sha256")] or differing
        heads.append(", ".join([head, *(f"{key} {str(fields[key])[:16]}" for key in telling)]))
    return heads


def _cell(row: Row) -> str:
    """Perplexities as they are, time and memory in their units; else a rate or a score from 0 to 1, in per cent."""
    if row.task == EXTRACTION:
        shown = f"{row.value:.1f} s" if row.metric == "seconds" else f"{row.value / (1 << 20):,.0f} MiB"
        return f">{shown}" if row.settings.get("resumed_blocks") and row.metric == "seconds" else shown
    scale, digits = {"perplexity": (1, 2), _BITS: (1, 4)}.get(row.metric, (100, 1))
    value, low, high = (f"{scale * x:.{digits}f}" for x in (row.value, row.low, row.high))
    return f"{value}{'%' if scale == 100 else ''} [{low}, {high}]"


def _parts(*rows: Row | None) -> list[np.ndarray]:
    """What the rows are means of, where all of them have that of the same pieces; else nothing."""
    parts = [np.array(row.parts) for row in rows if row is not None and row.parts is not None]
    return parts if len(parts) == len(rows) and len({len(one) for one in parts}) == 1 else []


def _won_back(row: Row, base: Row | None, dense: Row | None) -> str:
    """A cell, as the share that it wins back of what another line loses against dense, if that loses beyond doubt."""
    parts = _parts(row, base, dense)
    if not parts or row is base or row is dense:
        return _cell(row)
    values, base_values, dense_values = parts if row.metric in _LOSSES else (-one for one in parts)
    if bootstrap(base_values - dense_values)[0] <= 0:
        return _cell(row)
    return "won {:.1f}% [{:.1f}, {:.1f}]".format(
        *(100 * x for x in ratio(base_values - values, base_values - dense_values))
    )


def _against(row: Row, base: Row | None) -> str:
    """A cell, as its difference from the same cell of another line."""
    parts = _parts(row, base)
    if not parts or row is base:
        return _cell(row)
    values, base_values = parts
    if row.metric in ("layer error", _BITS):
        if not base_values.any():  # the base loses nothing
            return _cell(row)
        return "{:+.1f}% [{:+.1f}, {:+.1f}]".format(*(100 * (x - 1) for x in ratio(values, base_values)))
    differences = values - base_values
    nats = row.metric == "perplexity"
    value, (low, high) = differences.mean(), bootstrap(differences)
    shown = [100 * (np.expm1(x) if nats else x) for x in (value, low, high)]
    return "{:+.1f}{} [{:+.1f}, {:+.1f}]".format(shown[0], "%" if nats else " points", *shown[1:])


def _counted(row: Row) -> str:
    return "bytes" if row.metric == _BITS else "tokens" if row.metric in _LOSSES else "problems"


def aligned(lines: list[list[str]]) -> str:
    """Cells as columns of text: the first to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def piped(lines: list[list[str]]) -> str:
    """Cells as a table of Markdown, aligned alike."""
    ruled = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)], *lines[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in ruled)


def _name(row: Row, names: Mapping[str, str]) -> str:
    return names.get(row.data["name"]) or _short(row.data["name"])


def _short(name: str) -> str:
    path, colon, column = name.rpartition(":")
    parts = (path if colon else name).rstrip("/").split("/")
    return "/".join(parts[-2:]) + (f":{column}" if colon else "")
