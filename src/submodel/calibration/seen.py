"""Which rows of a text a sub-model was calibrated on: by what they say, wherever the text lies now."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submodel.calibration.documents import Text
from submodel.calibration.samples import parts_of


def rows_seen(calibration: Mapping[str, Any] | None, text: Text) -> dict[str, set[int]]:
    """Source -> the rows of `text` that calibration read; sources without one are left out.

    A manifest has no texts, but where its rows lay in their file and one digest over them: a source whose rows of those
    numbers give that digest is that file, whatever it is called now. Read under other columns it has other texts; then
    it is known by its path, as long as commands are given in the directory where the calibration was.

    Args:
        calibration: of a manifest.
        text: whole.
    """
    texts: dict[str, dict[int, str]] = defaultdict(dict)
    for document in text.documents:
        texts[document.source][document.row] = document.text
    read: dict[tuple[int, ...], set[str]] = defaultdict(set)  # rows of a source -> digests
    seen: dict[str, set[int]] = defaultdict(set)
    for part in parts_of(calibration):
        for source, digest in part["sha256_rows"].items():
            read[tuple(part["rows"][source])].add(digest)
        if _is_same_place(part, text) and _columns(part["column"], part) != _columns(text.column, text.about):
            for source in texts:
                seen[source] |= set(part["rows"].get(part["path"] if source == text.path else source, ()))
    for source, rows in texts.items():
        for numbers, digests in read.items():
            if numbers[-1] in rows and all(number in rows for number in numbers):
                digest = hashlib.sha256()
                for number in numbers:
                    digest.update(rows[number].encode())
                if digest.hexdigest() in digests:
                    seen[source] |= set(numbers)
    return {source: rows & texts[source].keys() for source, rows in seen.items() if rows & texts[source].keys()}


def _is_same_place(part: Mapping[str, Any], text: Text) -> bool:
    """Whether it lay where the text lies. A tree's two splits share no file; a file has one split."""
    path = Path(text.path).resolve()
    return Path(part["path"]).resolve() == path and (not path.is_dir() or part["split"] == text.split)


def _columns(column: str | None, about: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The columns of a row that its text is made of."""
    return column, about.get("set", {}).get("name")
