"""Evaluate models on tasks: one row a cell, cells already measured are skipped, calibration rows are refused."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from submodel.calibration import Samples, load_samples
from submodel.errors import SubmodelError, unknown_name
from submodel.models import Base
from submodel.runtime import Loaded, load
from submodel.tasks.perplexity import perplexity
from submodel.tasks.rows import Row, append_rows, machine, read_rows, versions


@dataclass(frozen=True)
class Settings:
    """What decides a measurement beside model and data.

    Attributes:
        tokens: how many tokens of text at most.
        seq_len: tokens a window.
        seed: of the choice and order of documents.
        dtype, device: of the arithmetic; as stored if dtype is None.
    """

    tokens: int = 50_000
    seq_len: int = 1024
    seed: int = 0
    dtype: torch.dtype | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Task:
    """A task of the command line, such as perplexity on one file: `spec` is what follows its name."""

    name: str
    spec: str


Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Session:
    """What the cells of one evaluation share.

    Attributes:
        settings, progress: as given to `evaluate`.
        done: keys of rows that are there already.
        samples: text that is tokenised already, by base and task.
    """

    settings: Settings
    progress: Progress
    done: set[str]
    samples: dict[tuple[str, Task], Samples] = field(default_factory=dict)


def _perplexity_row(task: Task, loaded: Loaded, session: Session) -> Row | None:
    settings, progress = session.settings, session.progress
    key = (loaded.base.sha256, task)
    if key not in session.samples:
        session.samples[key] = load_samples(
            task.spec,
            task.spec,
            loaded.tokenizer,
            samples=max(1, settings.tokens // settings.seq_len),
            seq_len=settings.seq_len,
            seed=settings.seed,
            split="held-out",
        )
    samples = session.samples[key]
    _refuse_calibrated(loaded, samples)
    provenance = samples.provenance
    assert provenance is not None
    data = {
        "name": task.spec,
        "split": provenance.split,
        "documents": provenance.documents,
        "sha256_tokens": provenance.sha256_tokens,
    }
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    used = {"tokens": provenance.tokens, "seq_len": settings.seq_len, "seed": settings.seed, "dtype": dtype}
    row = _row(task, loaded, data, used)
    if row.key in session.done:
        return None
    started = time.monotonic()
    seen = 0
    lock = threading.Lock()

    def count(tokens: int) -> None:
        nonlocal seen
        with lock:
            seen += tokens
        progress(f"{loaded.name} on {task.spec}", seen, samples.ids.numel())

    found = perplexity(loaded.model, samples, count)
    measured = {"value": found.value, "low": found.low, "high": found.high, "n": found.tokens}
    return Row(**{**row.__dict__, **measured, "seconds": round(time.monotonic() - started, 1)})


TASKS: dict[str, Callable[[Task, Loaded, Session], Row | None]] = {
    "perplexity": _perplexity_row,
}


def parse_task(spec: str) -> Task:
    """`perplexity:PATH[:COLUMN]` -> Task. Raises SubmodelError for an unknown task or one without its file."""
    name, _, rest = spec.partition(":")
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    if not rest:
        raise SubmodelError(f"task {spec!r}: on which text? give {name}:PATH[:COLUMN]")
    return Task(name, rest)


def evaluate(
    references: list[str],
    tasks: list[Task],
    out: Path,
    settings: Settings,
    *,
    base: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Iterator[Row]:
    """Measure every model on every task; each new row is appended to `out` and yielded.

    Raises:
        SubmodelError: bad model, task or data, or evaluation text that a sub-model was calibrated on.
    """
    session = Session(settings, progress, {row.key for row in read_rows(out)})
    opened: dict[str, Base] = {}
    for reference in references:
        loaded = load(
            reference,
            dtype=settings.dtype,
            device=settings.device,
            base=base,
            trust_remote_code=trust_remote_code,
            opened=opened,
        )
        for task in tasks:
            row = TASKS[task.name](task, loaded, session)
            if row is not None:
                append_rows(out, [row])
                yield row
        del loaded


def _row(task: Task, loaded: Loaded, data: dict[str, Any], settings: dict[str, Any]) -> Row:
    return Row(
        model=loaded.base.reference,
        submodel=loaded.name,
        masks=loaded.manifest["masks"]["sha256"] if loaded.manifest else None,
        weights=loaded.base.sha256,
        task=task.name,
        data=data,
        metric=task.name,
        value=float("nan"),
        low=float("nan"),
        high=float("nan"),
        n=0,
        settings=settings,
        versions=versions(),
        machine=machine(),
        seconds=0.0,
    )


def _refuse_calibrated(loaded: Loaded, samples: Samples) -> None:
    """Rule 1 of the science: never evaluate on what was calibrated on."""
    calibration = (loaded.manifest or {}).get("calibration")
    provenance = samples.provenance
    if not calibration or provenance is None:
        return
    for source, rows in provenance.rows.items():
        same_file = calibration["path"] == provenance.path and calibration["split"] == provenance.split
        common = set(rows) & set(calibration["rows"].get(source, ())) if same_file else set()
        if common:
            raise SubmodelError(
                f"{provenance.path}: {loaded.reference} was calibrated on {len(common)} of the rows asked for "
                f"(row {min(common)} among them): evaluate on text that it has not seen"
            )
