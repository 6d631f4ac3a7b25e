"""The highest sparsity at which a domain's held-out text loses no more than a bound.

The loss is taken to grow with sparsity, so halving the range finds it: every step extracts a sub-model into a store of
its own beside the one asked for, and measures it on the same windows as the dense model.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from submodel import store
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import Extraction, extract, fit_routing
from submodel.prune.sparsity import RowSparsity
from submodel.runtime import Loaded, load
from submodel.tasks.intervals import bootstrap
from submodel.tasks.perplexity import window_losses

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
) -> Extraction:
    """Derive the smallest sub-model of a domain whose loss on held-out text is at most `bound`.

    Args:
        base: the base model.
        domain: what to calibrate on.
        held_out: packed text of the same domain that calibration has not seen.
        out: the store; trials stand in a folder of OUT.search, removed in the end and gone on with after a kill.
        bound: nats a token above the dense model; 0.1 is a perplexity 10.5% higher.
        say: told every trial in a line.
        trust_remote_code: run code that is shipped with the model.
        routing: as of `extract`.
        settings: of `extract`.

    Raises:
        SubmodelError: no sparsity of STEPS is good enough, text is on both sides, or what `extract` raises.
    """
    check_bound(bound)
    _refuse_common(domain, held_out)
    started = time.monotonic()
    key = _key(base, domain, held_out, bound, settings)
    folder = out.with_name(f"{out.name}.search") / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with store.locked(folder, "another process searches for the same: wait for it to end"):
            manifest = _found_before(out, domain.name, key)
            already = manifest is not None
            if manifest is None:
                opened = {base.reference: base}
                device = settings.get("device", "cpu")
                run = partial(load, device=device, trust_remote_code=trust_remote_code, opened=opened)
                best, trials = _search(base, domain, held_out, folder, bound, say, run, settings)
                recipe = {k: v for k, v in best.manifest(domain.name).items() if k not in store.OWN_KEYS}
                recipe["search"] = {"bound": bound, "trials": [asdict(trial) for trial in trials], "key": key}
                target = store.open_or_create(out, best.base)
                with target.lock():
                    manifest = target.add(domain.name, best.masks(domain.name), recipe)
            if routing:
                target = store.Store(out)
                with target.lock():
                    fit_routing(base, target, [domain])
            _remove(folder)
    except SubmodelError:
        if not any(folder.glob("*.store")):  # nothing to go on with
            _remove(folder)
        raise
    names = [domain.name] if already else []
    return Extraction(out, {domain.name: manifest}, names, resumed_blocks=0, seconds=time.monotonic() - started)


def _search(
    base: Base,
    domain: Samples,
    held_out: Samples,
    folder: Path,
    bound: float,
    say: Callable[[str], Any],
    run: Callable[[str], Loaded],
    settings: dict[str, Any],
) -> tuple[store.Store, list[Trial]]:
    """The store of the best trial, and all trials."""

    def at(sparsity: float) -> Path:
        return folder / f"{sparsity:.2f}.store"

    dense = window_losses(run(base.reference).model, held_out)

    def loss_at(sparsity: float) -> Trial:
        extract(base, [domain], at(sparsity), sparsity=RowSparsity(sparsity), routing=False, **settings)
        more = window_losses(run(f"{at(sparsity)}@{domain.name}").model, held_out) - dense
        trial = Trial(sparsity, float(more.mean()), *bootstrap(more))
        say(f"{sparsity:.2f}: {trial.loss:+.4f} nats a token [{trial.low:+.4f}, {trial.high:+.4f}]")
        return trial

    trials = highest(loss_at, bound)
    good = [trial for trial in trials if trial.loss <= bound]
    if not good:
        for trial in trials:
            shutil.rmtree(at(trial.sparsity))
        raise SubmodelError(
            f"--max-loss {bound:g}: {STEPS[0]:.0%} already costs {trials[-1].loss:.4f} nats a token: allow more"
        )
    return store.Store(at(max(good, key=lambda trial: trial.sparsity).sparsity)), trials


def _refuse_common(domain: Samples, held_out: Samples) -> None:
    """Both were read in this process, so that a file is known by its path."""
    for read in held_out.parts:
        path = Path(read["path"]).resolve()
        for part in (part for part in domain.parts if Path(part["path"]).resolve() == path):
            for source, rows in read["rows"].items():
                common = set(rows) & set(part["rows"].get(part["path"] if source == read["path"] else source, ()))
                if common:
                    raise SubmodelError(
                        f"{read['path']}: {domain.name} is calibrated on {len(common)} of its rows (row {min(common)} "
                        "among them): give --held-out text that it does not see"
                    )


def _key(base: Base, domain: Samples, held_out: Samples, bound: float, settings: dict[str, Any]) -> str:
    """What decides what is found."""
    texts = [of.provenance.sha256_tokens if of.provenance else None for of in (domain, held_out)]
    chosen = {name: str(value) for name, value in settings.items()}
    return hashlib.sha256(
        json.dumps([base.sha256, domain.name, texts, bound, chosen], sort_keys=True).encode()
    ).hexdigest()


def _found_before(out: Path, name: str, key: str) -> dict[str, Any] | None:
    """The manifest of what the same search has found. Raises SubmodelError when the name is another's."""
    if not out.exists() or name not in store.Store(out).names:
        return None
    manifest = store.Store(out).manifest(name)
    if manifest.get("search", {}).get("key") != key:
        raise SubmodelError(f"{out}@{name}: already there: give another --name")
    return manifest


def _remove(folder: Path) -> None:
    """A search's folder, and the one that all of a store stand in if it is the last."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
