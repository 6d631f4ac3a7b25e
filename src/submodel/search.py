"""The highest sparsity at which a domain's held-out text loses no more than a bound.

The loss is taken to grow with sparsity, so halving the range finds it: every step extracts a sub-model into a store of
its own beside the one asked for, and measures it on the same windows as the dense model.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from submodel import store
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.models import Base
from submodel.prune.extract import Extracted, extract, fit_routing
from submodel.prune.select import Pattern
from submodel.runtime import Loaded, load
from submodel.tasks.intervals import bootstrap
from submodel.tasks.perplexity import refuse_calibrated_rows, window_losses

STEPS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""The sparsities that are tried: 0.05 to 0.95."""


@dataclass(frozen=True)
class Trial:
    """What a sparsity costs: mean nats a token above the dense model, with a 95% interval over the windows."""

    sparsity: float
    loss: float
    low: float
    high: float


def highest(loss_at: Callable[[float], Trial], bound: float, steps: tuple[float, ...] = STEPS) -> list[Trial]:
    """Try the middle of what is left of `steps` until nothing is; the trials in the order they were made."""
    trials: list[Trial] = []
    low, high = 0, len(steps)  # steps below `low` are good enough, from `high` on they are not
    while low < high:
        middle = (low + high) // 2
        trials.append(loss_at(steps[middle]))
        low, high = (middle + 1, high) if trials[-1].loss <= bound else (low, middle)
    return trials


def check_bound(bound: float) -> None:
    """Raises SubmodelError unless it is a loss above 0."""
    if not 0 < bound < float("inf"):
        raise SubmodelError(f"--max-loss {bound}: give nats a token above the dense model, such as 0.1")


def search(
    base: Base,
    domain: Samples,
    held_out: Samples,
    out: Path,
    bound: float,
    *,
    say: Callable[[str], Any] = lambda line: None,
    trust_remote_code: bool = False,
    routing: bool = True,
    **settings: Any,
) -> Extracted:
    """Derive the smallest sub-model of a domain whose loss on held-out text is at most `bound`.

    Args:
        base: the base model.
        domain: what to calibrate on.
        held_out: packed text of the same domain that calibration has not seen.
        out: the store; trials stand in OUT.search, which is removed in the end and gone on with after a kill.
        bound: nats a token above the dense model; 0.1 is a perplexity 10.5% higher.
        say: told every trial in a line.
        trust_remote_code: run code that is shipped with the model.
        routing: as of `extract`.
        settings: of `extract`.

    Raises:
        SubmodelError: no sparsity of STEPS is good enough, or what `extract` raises.
    """
    check_bound(bound)
    if out.exists() and domain.name in store.Store(out).names:
        raise SubmodelError(f"{out}@{domain.name}: already there: give another --name")
    started = time.monotonic()
    folder = out.with_name(out.name + ".search")
    opened: dict[str, Base] = {base.reference: base}

    def losses(loaded: Loaded) -> np.ndarray:
        refuse_calibrated_rows(loaded, held_out)
        return window_losses(loaded.model, held_out)

    def opened_as(reference: str) -> Loaded:
        device = settings.get("device", "cpu")
        return load(reference, device=device, trust_remote_code=trust_remote_code, opened=opened)

    def at(sparsity: float) -> Path:
        return folder / f"{sparsity:.2f}.store"

    dense = losses(opened_as(base.reference))

    def loss_at(sparsity: float) -> Trial:
        extract(base, [domain], at(sparsity), pattern=Pattern(sparsity), routing=False, **settings)
        more = losses(opened_as(f"{at(sparsity)}@{domain.name}")) - dense
        trial = Trial(sparsity, float(more.mean()), *bootstrap(more))
        say(f"{sparsity:.2f}: {trial.loss:+.4f} nats a token [{trial.low:+.4f}, {trial.high:+.4f}]")
        return trial

    trials = highest(loss_at, bound)
    good = [trial for trial in trials if trial.loss <= bound]
    if not good:
        shutil.rmtree(folder)
        raise SubmodelError(
            f"--max-loss {bound:g}: {STEPS[0]:.0%} already costs {trials[-1].loss:.4f} nats a token: allow more"
        )
    best = max(good, key=lambda trial: trial.sparsity)
    found = store.Store(at(best.sparsity))
    recipe = {key: value for key, value in found.manifest(domain.name).items() if key not in store.OWN_KEYS}
    recipe["search"] = {"bound": bound, "trials": [asdict(trial) for trial in trials]}
    target = store.open_or_create(out, found.base)
    with target.lock():
        kept = target.add(domain.name, found.masks(domain.name), recipe)
    shutil.rmtree(folder)
    if routing:
        fit_routing(base, target, [domain])
    return Extracted(out, {domain.name: kept}, already=[], resumed_blocks=0, seconds=time.monotonic() - started)
