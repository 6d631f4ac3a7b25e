"""The text of a named set: its rows in the template of the catalogue."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from submodel.calibration.catalogue import ALIASES, DOMAINS, Row, Template
from submodel.calibration.documents import Document, Text
from submodel.calibration.sets import NamedSet, Rows, read_set
from submodel.errors import SubmodelError

_MOST_ROWS = 20_000  # of a set on the hub: many calibration budgets, and no download of a complete crawl


def read_named_set(name: str, data_dir: Path | None, revision: str | None = None, split: str | None = None) -> Text:
    """The documents of a named set or alias.

    Args:
        name: a key of DOMAINS or ALIASES.
        data_dir: where sets lie (see `sets`); the hub if None.
        revision: another commit of the hub than the entry's.
        split: another split than the one to calibrate on, read whole.

    Raises:
        SubmodelError: it cannot be had, has other columns, or no text.
    """
    key = ALIASES.get(name, name)
    entry = DOMAINS[key]
    source = replace(entry.source, revision=revision) if revision else entry.source
    if split is not None:
        source = _other_split(source, split)
    stored = read_set(source, data_dir, _MOST_ROWS)
    rows = stored.rows if split else stored.rows[: max(1, int(len(stored.rows) * entry.fraction))]
    text = entry.stand_in_text if stored.stand_in and entry.stand_in_text else entry.text
    documents: list[Document] = []
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows):
        try:
            written = _fill(text, row, stored, number)
        except _Null:
            left_out["null"] += 1
            continue
        if written.strip():
            documents.append(Document(stored.origin, number, written))
        else:
            left_out["empty"] += 1
    if not documents:
        raise SubmodelError(f"{stored.origin}: no text in it: give the set's own rows")
    about = {"set": _described(key, stored), **({"left_out": dict(left_out)} if left_out else {})}
    return Text(name, documents, stored.origin, None, source.split, about)


def _other_split(source: NamedSet, split: str) -> NamedSet:
    if source.files:
        raise SubmodelError(f"{source.hub}: only its {source.split} split can be read, not {split!r}: name another set")
    stand_in = f"{source.path}/{split}.jsonl" if source.stand_in else ""
    return replace(source, split=split, stored_split=None, stand_in=stand_in)


class _Null(Exception):
    """A template needs a value that is null."""


class _Filled(dict[str, Any]):
    """A row whose nulls are no text, where a template would write "None"."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if value is None:
            raise _Null
        return _Filled(value) if type(value) is dict else value


def _fill(template: Template, row: Row, stored: Rows, number: int) -> str:
    row = _Filled(row)
    try:
        return template.format_map(row) if isinstance(template, str) else template(row)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SubmodelError(
            f"{stored.origin}, row {number}: not the columns of {stored.source.hub} ({type(error).__name__}: {error}); "
            f"it has {', '.join(row)}"
        ) from error


def _described(key: str, stored: Rows) -> dict[str, Any]:
    source = stored.source
    fields = {
        "name": key,
        "hub": source.hub,
        "config": source.config,
        "split": source.split,
        "revision": stored.revision,
        "stand_in": stored.stand_in,
    }
    return {k: v for k, v in fields.items() if v}
