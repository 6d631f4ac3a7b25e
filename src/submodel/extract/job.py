"""Extract sub-models: walk the base once, decide every domain's masks, put them into a store.

Work in progress lives in the store under work/, named by a digest of everything that decides the masks, so the
same command finds it after a kill and another command does not.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from submodel import store
from submodel.base.arithmetic import default_dtype
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.auto import (
    AUTO,
    CANDIDATES,
    Choice,
    OverBudget,
    allocation_for,
    check_method,
    check_rate,
    distils,
    noted,
)
from submodel.extract.make import Plan, make
from submodel.extract.progress import Watch
from submodel.extract.recipe import Settings, is_there, recipe
from submodel.extract.workdir import Work
from submodel.prune import METHODS
from submodel.prune.allocate import sensitivity
from submodel.prune.allocate.allocation import ALLOCATIONS, UNIFORM, check_allocation
from submodel.prune.learn.distil import check_memory
from submodel.prune.sparsity import Pattern
from submodel.router.pooled import Pooler
from submodel.router.profile import fit_samples, is_fitted
from submodel.runtime.packed.formats import grid_of


@dataclass(frozen=True)
class Extracted:
    """The result of one extraction.

    Attributes:
        store: the store's directory.
        manifests: name -> manifest of every sub-model asked for.
        already: the names that were there before, with the same recipe.
        resumed_blocks: blocks that an earlier, killed run had done.
        seconds: wall time of the walk.
    """

    store: Path
    manifests: dict[str, dict[str, Any]]
    already: list[str]
    resumed_blocks: int
    seconds: float


def extract(
    base: Base,
    domains: Sequence[Samples],
    out: Path,
    *,
    method: str = "wanda",
    minutes: float | None = None,
    pattern: Pattern | None = None,
    allocation: str | None = None,
    openings: int | None = None,
    rate: float | None = None,
    grid: str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    batch_tokens: int = 512,
    routing: bool = True,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Extracted:
    """Derive one sub-model per domain in one walk over the base.

    Args:
        base: the base model.
        domains: token samples; a sub-model gets its domain's name.
        out: the store, made if it is not there.
        method: a key of METHODS, or "auto": the best mask-only one that the time allows (see `auto`).
        minutes: of "auto": the time it may take; any if None.
        pattern: what to remove; half of every row if None.
        allocation: a key of ALLOCATIONS: how the sparsity is spread; if None what "auto" takes, else uniform.
        openings: one-token samples beside each domain's text; the method's own number if None.
        rate: of a method that distils: how far scores move in its first step; `distil.RATE` if None.
        grid: a packed format, a member of `rounding.GRIDS`, to whose grid the kept weights are rounded.
        dtype: of the arithmetic; bfloat16 where the processor has it, else float32.
        device: where blocks run.
        batch_tokens: about how many tokens run at once in one worker (a core).
        routing: keep what the router needs of each domain's text as well (docs/routing.md).
        progress: told tokens done and in all; a token counts once per run of a block.

    Returns:
        The manifests. A sub-model that is there already with the same recipe is left as it is.

    Raises:
        SubmodelError: unknown method, allocation or grid, one that does not fit, fewer openings than none, a rate
            that moves nothing, a name that is taken, a store of another base, a full disk.
    """
    check_method(method, minutes)
    pattern = pattern or Pattern(0.5)
    check_allocation(allocation or UNIFORM, pattern, domains)
    if openings is not None and openings < 0:
        raise SubmodelError(f"openings {openings}: give how many one-token samples to add, 0 for none")
    check_rate(method, rate)
    if grid is not None:
        grid_of(grid)
    names = [domain.name for domain in domains]
    store.check_names(names)
    dtype = dtype or default_dtype(device)
    if distils(method):
        check_memory(base, dtype, device, own=method != AUTO and METHODS[method].fitted_first)
    if (rule := ALLOCATIONS[allocation or UNIFORM]) and rule.reads:
        sensitivity.check_memory(base, dtype, device, masked=rule.masked)

    def plan(by: str) -> Plan:
        added = METHODS[by].openings if openings is None else openings
        spread = allocation or (allocation_for(by, minutes, pattern) if method == AUTO else UNIFORM)
        settings = Settings(by, pattern, spread, added, rate, grid, dtype, device, batch_tokens)
        return Plan(settings, {domain.name: recipe(base, domain, settings) for domain in domains})

    started = time.monotonic()
    choice = None
    if method == AUTO:
        choice = _earlier(out, Choice(minutes, _best_that_fits(base, dtype, device)), plan)
    while True:
        try:
            watch = Watch(progress, choice, started)
            by = choice.method if choice else method
            missing, resumed = _derive(base, domains, out, plan(by), watch, routing)
            break
        except OverBudget as over:
            assert choice is not None
            choice = choice.following(over.seconds)
    target = store.Store(out)
    manifests = {name: target.manifest(name) for name in names}
    already = [name for name in names if name not in {d.name for d in missing}]
    return Extracted(out, manifests, already, resumed, time.monotonic() - started)


def _best_that_fits(base: Base, dtype: torch.dtype, device: str) -> str:
    try:
        check_memory(base, dtype, device)
    except SubmodelError:
        return next(name for name in CANDIDATES if not METHODS[name].distilled)
    return CANDIDATES[0]


def _earlier(out: Path, first: Choice, plan: Callable[[str], Plan]) -> Choice:
    """What the same command decided before, of sub-models that are there or of a walk that was killed; or `first`."""
    if (out / "store.json").exists():
        target, minutes = store.Store(out), first.minutes
        for method in CANDIDATES:
            keys = {name: recipe["key"] for name, recipe in plan(method).recipes.items()}
            for name in set(target.names) & set(keys):
                manifest = target.manifest(name)
                decided = manifest.get("auto")
                if manifest["key"] == keys.pop(name) and decided and decided["minutes"] == minutes:
                    return Choice(minutes, method, decided["estimates"])
            if found := noted(Work.place(target, keys), method, minutes):
                return found
    return first


def _derive(
    base: Base, domains: Sequence[Samples], out: Path, plan: Plan, watch: Watch, routing: bool
) -> tuple[list[Samples], int]:
    """Make what is not there yet. Returns it, and the blocks that an earlier, killed run had done.

    Raises OverBudget when another method should be taken, and as `extract` does.
    """
    identity = {"reference": base.reference, "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    begun, resumed = out if not out.exists() else None, 0
    try:
        target = store.open_or_create(out, identity)
        with target.lock():
            missing = [d for d in domains if not is_there(target, d.name, plan.recipes[d.name]["key"])]
            if missing:
                work = Work(Work.place(target, {d.name: plan.recipes[d.name]["key"] for d in missing}))
                begun = begun or work.folder
                resumed = make(base, missing, plan, target, work, watch)
                work.remove()
            begun = None  # the sub-models are whole by now
            if routing:
                fit_routing(base, target, domains)
            return missing, resumed
    except (OSError, SubmodelError, OverBudget) as error:
        # a refusal leaves nothing behind; only a run that was interrupted or killed can go on
        if begun:
            shutil.rmtree(begun, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise SubmodelError(f"{out}: {error.strerror or error}: free some room, then give the same command") from error


def fit_routing(base: Base, target: store.Store, domains: Sequence[Samples]) -> None:
    """Keep what the domains' texts look like, for the router, where it is not there yet; the store is locked.

    Only what was made from text can be told by text.
    """
    if texts := [d for d in domains if d.provenance is not None and not is_fitted(target, d.name)]:
        pooler = Pooler(base)
        for domain in texts:
            fit_samples(target, pooler, domain.name, domain)
