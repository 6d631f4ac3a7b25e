"""The rows of named data sets: from a directory that holds them in their hub columns, else from the hub.

A data directory holds JSON lines, plain or gzipped. DIR/HUB_ID/[CONFIG/]SPLIT.jsonl is the set itself; under its short
name, DIR/PATH/SPLIT.jsonl, there may be other rows in its columns: then the set says so.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel.calibration.text_files import LARGEST_TEXT, UNREADABLE, open_text
from submodel.errors import SubmodelError


@dataclass(frozen=True)
class NamedSet:
    """One split of a data set.

    Attributes:
        path: its folder under a data directory.
        hub, config, split: its name on the hub.
        revision: the commit that is read on the hub; its newest one if None.
        files: files of the hub's repository that are read directly, where its own loader is a script.
        stored_split: the split that `path` holds, if it is another one.
        stand_in: what lies at `path` instead of the set's own rows, in words; empty where it is the set.
    """

    path: str
    hub: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    files: str | None = None
    stored_split: str | None = None
    stand_in: str = ""

    @property
    def file(self) -> str:
        """The path of its rows, or of their stand-in, under the data directory, without .gz."""
        return f"{self.path}/{self.stored_split or self.split}.jsonl"

    @property
    def hub_file(self) -> str:
        """The path under the data directory that only the set's own rows have, without .gz."""
        return "/".join(part for part in (self.hub, self.config, f"{self.split}.jsonl") if part)


@dataclass(frozen=True)
class Rows:
    """Rows of a set.

    Attributes:
        source: the set.
        rows: in the order in which they are stored.
        sha256: over the rows as canonical JSON.
        origin: the file that was read, or HUB@REVISION/[CONFIG/]SPLIT.
        revision: the commit of the hub that was read; None for a file.
        stand_in: `source.stand_in` if that is what was read, else empty.
    """

    source: NamedSet
    rows: list[dict[str, Any]]
    sha256: str
    origin: str = ""
    revision: str | None = None
    stand_in: str = ""


def read_set(source: NamedSet, data_dir: Path | None, most: int | None = None) -> Rows:
    """Rows of a set, from `data_dir` if given, else from the hub.

    Args:
        source: the set.
        data_dir: where sets lie.
        most: of the hub read no more than the first so many; a file is read whole.

    Raises SubmodelError when it is not there.
    """
    stand_in, revision = "", None
    if data_dir:
        file, stand_in = find_file(source, data_dir)
        rows, origin = list(read_jsonl(file)), str(file)
    else:
        rows, revision = _hub(source, most)
        origin = f"{source.hub}@{revision}/{source.config + '/' if source.config else ''}{source.split}"
    if not rows:
        raise SubmodelError(f"{origin}: no rows in it")
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return Rows(source, rows, digest.hexdigest(), origin, revision, stand_in)


def is_stored(source: NamedSet, data_dir: Path) -> bool:
    """Whether a data directory holds a set or its stand-in."""
    return any((data_dir / f"{name}{end}").is_file() for name in (source.hub_file, source.file) for end in ("", ".gz"))


def find_file(source: NamedSet, data_dir: Path) -> tuple[Path, str]:
    """The file of a set in a data directory, and what it stands in with (empty for the set itself).

    Raises SubmodelError when it is not there.
    """
    for name, stand_in in ((source.hub_file, ""), (source.file, source.stand_in)):
        for file in (data_dir / name, data_dir / f"{name}.gz"):
            if file.is_file():
                return file, stand_in
    raise SubmodelError(
        f"{data_dir / source.file}[.gz]: no such file, nor {source.hub_file}: --data-dir holds sets as PATH/SPLIT.jsonl"
    )


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, plain or .gz, in the encoding that a byte order mark says, else UTF-8.

    Raises SubmodelError for anything else.
    """
    number = 0
    try:
        with open_text(file) as f:
            while line := f.readline(LARGEST_TEXT):
                number += 1
                if len(line) == LARGEST_TEXT:
                    raise SubmodelError(f"{file}, line {number}: over {LARGEST_TEXT:,} characters: give shorter lines")
                line = line.removeprefix("\ufeff")  # files that begin with a mark may have been joined
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise SubmodelError(f"{file}, line {number}: not a JSON object: give one object a line")
                    yield row
    except SubmodelError:
        raise
    except (*UNREADABLE, ValueError, RecursionError) as error:
        raise SubmodelError(f"{file}, line {number}: not JSON lines ({error}): give one object a line") from error


def _hub(source: NamedSet, most: int | None) -> tuple[list[dict[str, Any]], str]:
    try:
        from datasets import load_dataset
        from huggingface_hub import dataset_info
    except ImportError as error:
        raise SubmodelError(
            f"{source.hub}: give --data-dir DIR with {source.file}, or install submodel[eval] to read it from the hub"
        ) from error
    try:
        revision = source.revision or dataset_info(source.hub).sha or "main"
        if source.files:
            kind = source.files.removesuffix(".gz").rpartition(".")[2].replace("jsonl", "json")
            files = f"hf://datasets/{source.hub}@{revision}/{source.files}"
            stream: Any = load_dataset(kind, data_files=files, split="train", streaming=True)
        else:
            stream = load_dataset(source.hub, source.config, split=source.split, revision=revision, streaming=True)
        return [dict(row) for row in (stream if most is None else stream.take(most))], revision
    except Exception as error:  # the hub's library raises its own and its transport's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SubmodelError(
            f"{source.hub}: cannot be had from the hub ({reason}): give --data-dir DIR with {source.file}"
        ) from error
