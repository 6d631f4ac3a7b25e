"""One cell of an evaluation: a loaded model, what was asked for, and the row that it fills."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.calibration.sets import NamedSet, Rows, read_set
from submodel.runtime import Loaded
from submodel.store.calibration import stand_ins
from submodel.tasks.data import refuse_calibrated
from submodel.tasks.journal import Journal
from submodel.tasks.rows import Row, machine, versions

Progress = Callable[[str, int, int], Any]


@dataclass(frozen=True)
class Settings:
    """What decides a measurement beside model and data.

    Attributes:
        tokens, seq_len: text of a perplexity: tokens at most, tokens a window.
        seed: of the choice and order of text, and of sampling.
        dtype, device: of the arithmetic; as stored if dtype is None.
        limit: problems at most; all if None.
        data_dir: where named sets lie; the hub if None.
        samples: continuations a problem.
        ks: the k of pass@k.
        temperature, top_p: of sampling; temperature 0 is greedy, None is the task's own.
        max_tokens: new tokens a continuation at most; the task's own if None.
        chat: prompts go through the model's chat template.
        slots: sequences decoded side by side on each core; as many as memory allows if None.
        unsafe_code: run model-written programs even where nothing isolates them.
        wordnet: directory of WordNet's dictionary files.
        decode: perplexity token by token, with the arithmetic of decoding.
        weight_format: how the matrices are kept in memory (see `runtime.packed`); as torch tensors if None.
    """

    tokens: int = 50_000
    seq_len: int = 1024
    seed: int = 0
    dtype: torch.dtype | None = None
    device: str = "cpu"
    limit: int | None = None
    data_dir: Path | None = None
    samples: int | None = None
    ks: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    chat: bool = False
    slots: int | None = None
    unsafe_code: bool = False
    wordnet: Path | None = None
    weight_format: str | None = None
    decode: bool = False


@dataclass(frozen=True)
class Task:
    """A task of the command line: `spec` is what follows its name, such as the text of a perplexity."""

    name: str
    spec: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.spec}" if self.spec else self.name


@dataclass(frozen=True)
class Cell:
    """What a task is given.

    Attributes:
        task, loaded, settings: what to measure on which model.
        out: the rows file.
        done: keys of the rows that are there already.
        progress: called with (what, done, total).
        say: called with a line for the user.
        shared: what the cells of one evaluation keep between them (tokenised text, an opened sandbox).
        already: called with the key of a row that is there already, when a task asks for it.
        base: the base that the user gave, if any.
    """

    task: Task
    loaded: Loaded
    settings: Settings
    out: Path
    done: frozenset[str]
    progress: Progress
    say: Callable[[str], Any]
    shared: dict[Any, Any] = field(default_factory=dict)
    already: Callable[[str], Any] = lambda key: None
    base: str | None = None

    def row(self, metric: str, data: dict[str, Any], settings: dict[str, Any]) -> Row:
        """The row to fill: everything but the measurement."""
        loaded = self.loaded
        kept = {"format": loaded.weight_format} if loaded.weight_format else {}
        return Row(
            model=loaded.base.reference,
            submodel=loaded.name,
            masks=loaded.digest,
            weights=loaded.base.sha256,
            task=self.task.name,
            data=data,
            metric=metric,
            value=float("nan"),
            low=float("nan"),
            high=float("nan"),
            n=0,
            settings={**settings, **kept, "dtype": str(loaded.model.dtype).removeprefix("torch.")},
            versions=versions(),
            machine=machine(),
            seconds=0.0,
            notes=stand_ins((loaded.manifest or {}).get("calibration")),
        )

    def read(self, source: NamedSet) -> Rows:
        """A named set, read once an evaluation.

        Raises SubmodelError when it is not there, or the model was calibrated on it.
        """
        refuse_calibrated(self.loaded, source, self.settings.data_dir)
        key = ("set", source, self.settings.data_dir)
        if key not in self.shared:
            self.shared[key] = read_set(source, self.settings.data_dir)
        return self.shared[key]

    def is_done(self, row: Row) -> bool:
        """Whether a row is in the file already; then `already` is called with its key."""
        if row.key in self.done:
            self.already(row.key)
            return True
        return False

    def journal(self, row: Row) -> Journal:
        """The finished pieces of a row; rows that differ in metric and limit alone share them."""
        data = {k: v for k, v in row.data.items() if k != "rows"}
        return Journal(self.out, replace(row, metric="", data=data).key)


def filled(
    row: Row,
    value: float,
    interval: tuple[float, float],
    n: int,
    started: float,
    parts: np.ndarray | None = None,
) -> Row:
    """The row with its measurement; `started` is time.monotonic() at its begin, `parts` as in `Row`."""
    low, high = interval
    each = None if parts is None else [round(float(part), 6) for part in parts]
    seconds = round(time.monotonic() - started, 1)
    return replace(row, value=value, low=low, high=high, n=n, seconds=seconds, parts=each)
