"""The rows of named sets: from a directory that holds them in their hub columns, else from the hub."""

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError
from submodel.runtime import Loaded


@dataclass(frozen=True)
class NamedSet:
    """One split of a data set: where it lies under a data directory, and its name on the hub."""

    path: str
    hub: str
    config: str | None = None
    split: str = "test"

    @property
    def file(self) -> str:
        """Its path under the data directory, without .gz."""
        return f"{self.path}/{self.split}.jsonl"


@dataclass(frozen=True)
class Rows:
    """Rows of a set with their digest: `sha256` over the rows as canonical JSON."""

    source: NamedSet
    rows: list[dict[str, Any]]
    sha256: str


def read_set(source: NamedSet, data_dir: Path | None) -> Rows:
    """Every row of a set, from `data_dir` if given, else from the hub.

    Raises SubmodelError when it is not there.
    """
    rows = _local(source, data_dir) if data_dir else _hub(source)
    if not rows:
        raise SubmodelError(f"{source.file}: no rows in it")
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return Rows(source, rows, digest.hexdigest())


def _local(source: NamedSet, data_dir: Path) -> list[dict[str, Any]]:
    for file in (data_dir / source.file, data_dir / f"{source.file}.gz"):
        if file.is_file():
            opener = gzip.open if file.suffix == ".gz" else open
            try:
                with opener(file, "rt", encoding="utf-8") as f:
                    return [json.loads(line) for line in f if line.strip()]
            except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
                raise SubmodelError(f"{file}: not JSON lines ({error}): give the set in its hub columns") from error
    raise SubmodelError(f"{data_dir / source.file}[.gz]: no such file: --data-dir holds sets as PATH/SPLIT.jsonl")


def _hub(source: NamedSet) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise SubmodelError(
            f"{source.hub}: give --data-dir DIR with {source.file}, or install submodel[eval] to read it from the hub"
        ) from error
    try:
        return [dict(row) for row in load_dataset(source.hub, source.config, split=source.split)]  # type: ignore[arg-type]
    except Exception as error:  # the hub's library raises its own and its transport's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SubmodelError(
            f"{source.hub}: cannot be had from the hub ({reason}): give --data-dir DIR with {source.file}"
        ) from error


def refuse_calibrated(loaded: Loaded, source: NamedSet, data_dir: Path | None) -> None:
    """Rule 1 of the science: a sub-model is not evaluated on the set that it was calibrated on.

    Raises SubmodelError.
    """
    calibration = (loaded.manifest or {}).get("calibration")
    if not calibration:
        return
    path = Path(calibration["path"])
    files = [data_dir / f"{source.file}{end}" for end in ("", ".gz")] if data_dir else []
    if any(file.exists() and path.exists() and file.samefile(path) for file in files):
        raise SubmodelError(f"{path}: {loaded.reference} was calibrated on it: evaluate on text that it has not seen")
