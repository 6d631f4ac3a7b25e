"""Results as rows: one JSON line a finished cell; a rerun skips the cells that are there."""

import fcntl
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from submodel.errors import SubmodelError


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        model: the base's reference; `submodel`: its name, or "dense"; `masks`: `Loaded.digest`, or None.
        weights: the SHA-256 of the base's weights.
        task, metric: what was measured; `data`: name, split, rows and digest of what it was measured on.
        value, low, high: the value and its 95% confidence interval.
        n: how many tokens or problems stand behind it.
        notes: what a table has to say of it.
        settings: everything else that decides the value; `seed` among them.
        parts: the value of every problem, of a perplexity the mean nats a token of every window: what two rows on the
            same data are compared by, piece by piece; of a layer error that of every matrix. None where there are none.
        kinds: of a layer error the mean of each kind of matrix, by its name in the block.
    """

    model: str
    submodel: str
    masks: str | None
    weights: str
    task: str
    data: dict[str, Any]
    metric: str
    value: float
    low: float
    high: float
    n: int
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: str
    seconds: float
    notes: list[str] = field(default_factory=list)
    parts: list[float] | None = None
    kinds: dict[str, float] | None = None

    def __repr__(self) -> str:
        data = self.data.get("name", self.task)
        return f"<{self.submodel}: {self.metric} of {data} {self.value:.4g} [{self.low:.4g}, {self.high:.4g}]>"

    @property
    def key(self) -> str:
        """Equal for two measurements of the same thing."""
        return json.dumps([self.weights, self.masks, self.task, self.metric, self.data, self.settings], sort_keys=True)


def read_rows(file: Path) -> list[Row]:
    """The rows of a file; none if it is not there. A last line that a killed run left half written is no row.

    Raises SubmodelError for another line that is no row, or where no file of rows can be.
    """
    if not file.parent.is_dir():
        raise SubmodelError(f"{file}: no such directory: make it, or give another file")
    try:
        text = file.read_text() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SubmodelError(f"{file}: not a file of result rows ({error}): give a file that eval wrote") from error
    rows: list[Row] = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            rows.append(Row(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise SubmodelError(f"{file}, line {number}: not a result row: give a file that eval wrote") from error
    return rows


def append_rows(file: Path, rows: Iterable[Row]) -> None:
    """Add rows at the end, each whole, in place of a half-written one; writers wait for each other.

    Raises SubmodelError when they cannot be written.
    """
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    try:
        with open(file, "ab+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.seek(0)
            f.truncate(f.read().rfind(b"\n") + 1)
            f.write(lines.encode())
    except OSError as error:
        raise SubmodelError(f"{file}: {error.strerror or error}: the same command goes on") from error


def versions() -> dict[str, str]:
    """The versions of what bears on a result."""
    return {name: version(name) for name in ("submodel", "torch", "transformers")}


def machine() -> str:
    """Processor and threads, as far as they bear on speed."""
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
