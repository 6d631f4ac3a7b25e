"""What a cell will take: from finished cells of the same kind where there are some, else from written-down rates.

Work grows with the parameters of the model and with the tokens or problems; what a process takes to start is apart.
Finished cells of other kinds tell how fast this machine is beside the one of the written-down rates.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from submodel.base.models import Base
from submodel.calibration.packing import SEQ_LEN, TOKENS
from submodel.extract.steps import UNIFORM, reads_text
from submodel.study.grid import Options
from submodel.tasks.cell import Settings, Task
from submodel.tasks.evaluate import ON_TEXT

START_SECONDS = 5.0
# seconds a unit of work on 2 cores without a GPU (dev/notebook/studies.md says what was measured)
_WANDA = 120 / (32_000 * 0.494e9)
RATES = {
    "extract magnitude": 8 / 0.135e9,
    "extract wanda": _WANDA,
    "extract ria": _WANDA,
    "extract swaps": 2.3 * _WANDA,
    "extract pursuit": 3.6 * _WANDA,
    "extract sparsegpt": 2.4 * _WANDA,
    "extract wanda+reconstruct": 4.8 * _WANDA,
    "extract wanda+distil": 1980 / (98_304 * 0.494e9),
    "extract wanda+reconstruct+distil": 5.3 * _WANDA,
    "layer-error": 27 / (2_048 * 0.135e9),
    "bits-per-byte": 150 / (50_000 * 0.494e9),
    "perplexity": 150 / (50_000 * 0.494e9),
    "humaneval": 420 / 0.494e9,
    "humaneval, a problem": 420 / (164 * 0.494e9),
}


@dataclass(frozen=True)
class Work:
    """How much a cell has to do: `amount` is comparable between cells of one `kind`; None if it is not known."""

    kind: str
    amount: float | None


def parameters(base: Base | None) -> int | None:
    """The number of a base's parameters."""
    return None if base is None else base.parameters


def extraction_work(method: str, grid: str | None, calibration: Options, domains: int, parameters: int | None) -> Work:
    """Parameters times calibration tokens of all domains; parameters alone where no text is needed."""
    kind = f"extract {method}" + (f" on {grid}" if grid else "")
    if parameters is None or not reads_text(method, UNIFORM, grid):
        return Work(kind, parameters)
    tokens = calibration.get("tokens", TOKENS)
    if "samples" in calibration and "tokens" not in calibration:
        tokens = calibration["samples"] * calibration.get("seq_len", SEQ_LEN)
    return Work(kind, float(parameters) * tokens * domains)


def evaluation_work(task: Task, options: Options, parameters: int | None) -> Work:
    """Parameters times tokens of text, or times continuations; of a whole set their number is not known."""
    limit, samples = options.get("limit"), options.get("samples", max(options.get("k", [1])))
    if task.name in ON_TEXT:
        settings = Settings()
        whole = options.get("tokens", settings.tokens)
        tokens = limit * options.get("seq_len", settings.seq_len) if limit else whole
        return Work(task.name, parameters and float(parameters) * tokens)
    kind = f"{task.name}, a problem" if limit else task.name
    return Work(kind, parameters and float(parameters) * samples * (limit or 1))


def estimate(work: Work, measured: Sequence[tuple[Work, float]]) -> float | None:
    """Seconds that a cell will take, or None when nothing like it was measured.

    Args:
        work: of the cell.
        measured: work and seconds of finished cells.
    """
    if work.amount is None:
        return None
    rates = [(w.kind, max(0.0, s - START_SECONDS) / w.amount) for w, s in measured if w.amount]
    alike = [rate for kind, rate in rates if kind == work.kind]
    if alike:
        rate = statistics.median(alike)
    elif work.kind in RATES:
        rate = RATES[work.kind] * _slowness(work.kind, rates)
    else:
        return None
    return START_SECONDS + rate * work.amount


def _slowness(kind: str, rates: Sequence[tuple[str, float]]) -> float:
    """How often the written-down times this machine takes: by cells of the same verb, or by any; 1 if none is done."""
    against = [(other, rate / RATES[other]) for other, rate in rates if other in RATES and rate]
    same = [times for other, times in against if other.startswith("extract ") == kind.startswith("extract ")]
    return statistics.median(same or [times for _, times in against] or [1.0])


def duration(seconds: float | None) -> str:
    """Seconds for people; ? for None."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
