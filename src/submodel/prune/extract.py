"""Extract sub-models: walk the base once, decide every domain's masks, put them into a store.

Work in progress lives in the store under work/, named by a digest of everything that decides the masks, so the
same command finds it after a kill and another command does not.
"""

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from submodel import store
from submodel.calibration import Samples, with_openings
from submodel.errors import SubmodelError
from submodel.models import Base
from submodel.prune import METHODS
from submodel.prune.allocation import ALLOCATIONS, allocate, check_allocation
from submodel.prune.auto import AUTO, CANDIDATES, Choice, OverBudget, Pace, check_method, noted
from submodel.prune.decide import decider
from submodel.prune.distil import Distilled, check_fits, distil, steps_of
from submodel.prune.select import Pattern
from submodel.prune.work import Work
from submodel.router.pooled import Pooler
from submodel.router.profile import fit_samples
from submodel.stream import Pruned, default_dtype, walk

_WALKED = 32768  # tokens that the walk reads where a whole model's gradients come after it
_DISTIL_RUNS = 4  # of a block, that a token of those costs: dense, masked, and twice as much for the gradient


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
    allocation: str = "uniform",
    openings: int | None = None,
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
        allocation: a key of ALLOCATIONS: how the sparsity is spread over blocks.
        openings: one-token samples beside each domain's text; the method's own number if None.
        dtype: of the arithmetic; bfloat16 where the processor has it, else float32.
        device: where blocks run.
        batch_tokens: about how many tokens run at once in one worker (a core).
        routing: keep what the router needs of each domain's text as well (docs/routing.md).
        progress: told tokens done and in all; a token counts once per run of a block.

    Returns:
        The manifests. A sub-model that is there already with the same recipe is left as it is.

    Raises:
        SubmodelError: unknown method or allocation, one that does not fit, fewer openings than none, a name that is
            taken, a store of another base, a full disk.
    """
    check_method(method, minutes)
    pattern = pattern or Pattern(0.5)
    check_allocation(allocation, pattern, domains)
    if openings is not None and openings < 0:
        raise SubmodelError(f"openings {openings}: give how many one-token samples to add, 0 for none")
    names = [domain.name for domain in domains]
    for name in names:
        store.check_name(name)
    if len(set(names)) != len(names):
        raise SubmodelError(f"two sub-models of one name ({', '.join(names)}): give each a --name of its own")
    dtype = dtype or default_dtype(device)
    if method != AUTO and METHODS[method].distilled:
        check_fits(base, dtype, device)

    def plan(by: str) -> _Plan:
        added = METHODS[by].openings if openings is None else openings
        settings = (by, pattern, allocation, added, dtype, device, batch_tokens)
        return _Plan(by, pattern, allocation, added, {d.name: _recipe(d, base, *settings) for d in domains})

    run = partial(walk, base, dtype=dtype, device=device, batch_tokens=batch_tokens)
    started = time.monotonic()
    choice = None
    if method == AUTO:
        choice = _earlier(out, Choice(minutes, _best_that_fits(base, dtype, device)), plan)
    while True:
        try:
            by = plan(choice.method if choice else method)
            missing, resumed = _derive(base, domains, out, by, choice, run, started, progress)
            break
        except OverBudget as over:
            assert choice is not None
            choice = choice.following(over.seconds)
    target = store.Store(out)
    if routing:  # the sub-models are whole by now
        fit_routing(base, target, missing)
    manifests = {name: target.manifest(name) for name in names}
    already = [name for name in names if name not in {d.name for d in missing}]
    return Extracted(out, manifests, already, resumed, time.monotonic() - started)


@dataclass(frozen=True)
class _Plan:
    """How one method makes all sub-models asked for; `recipes` by their names."""

    method: str
    pattern: Pattern
    allocation: str
    openings: int
    recipes: dict[str, dict[str, Any]]


def _best_that_fits(base: Base, dtype: torch.dtype, device: str) -> str:
    try:
        check_fits(base, dtype, device)
    except SubmodelError:
        return next(name for name in CANDIDATES if not METHODS[name].distilled)
    return CANDIDATES[0]


def _earlier(out: Path, first: Choice, plan: Callable[[str], _Plan]) -> Choice:
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
    base: Base,
    domains: Sequence[Samples],
    out: Path,
    plan: _Plan,
    choice: Choice | None,
    run: partial[int],
    started: float,
    progress: Callable[[int, int], Any],
) -> tuple[list[Samples], int]:
    """Make what is not there yet. Returns it, and the blocks that an earlier, killed run had done.

    Raises OverBudget when another method than that of `choice` should be taken, and as `extract` does.
    """
    identity = {"reference": base.reference, "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    method, passes = METHODS[plan.method], 1 if ALLOCATIONS[plan.allocation] is None else 2
    fresh, folder = not out.exists(), None
    try:
        target = store.open_or_create(out, identity)
        with target.lock():
            missing = [d for d in domains if not _is_there(target, d.name, plan.recipes[d.name]["key"])]
            if not missing:
                return [], 0
            work = Work(target, {d.name: plan.recipes[d.name]["key"] for d in missing})
            folder = work.folder.name
            steps = sum(len(steps_of(d)) for d in missing) if method.distilled else 0
            pace = Pace(choice, steps or base.config.get_text_config().num_hidden_layers, started) if choice else None
            told = _Progress(progress, base, passes, missing if method.distilled else [])
            last = told.walk(passes - 1)

            def judge() -> None:
                if pace:
                    before = pace.choice
                    pace.judge()
                    if pace.choice is not before:
                        pace.choice.note(work.folder)

            def tell(done: int, total: int) -> None:
                if pace and not steps:
                    pace.begin()
                last(done, total)

            def keep(block: int, found: dict[str, dict[str, Pruned]]) -> None:
                work.keep(block, found)
                if block == 0 and not steps:
                    judge()

            def stepped(tokens: int) -> None:
                told.tokens(tokens)
                judge()
                if pace:
                    pace.begin()

            if choice and choice.estimates:
                choice.note(work.folder)
            walked = [_first_part(d) for d in missing] if method.distilled else missing
            patterns = allocate(
                plan.allocation, base, walked, plan.pattern, work.folder, partial(run, walked, progress=told.walk(0))
            )
            vocabulary = base.config.get_text_config().vocab_size
            resumed = run(
                [with_openings(d, plan.openings, vocabulary) for d in walked] if plan.openings else walked,
                make=method.statistic,
                decide=decider(method, patterns, work),
                keep=keep,
                work=work.folder,
                progress=tell,
            )
            found = {domain.name: work.result(domain.name) for domain in missing}
            moved: dict[str, Distilled] = {}
            for domain in missing if method.distilled else []:
                arithmetic = {key: run.keywords[key] for key in ("dtype", "device")}
                state = work.folder / f"{domain.name}.distil"
                moved[domain.name] = distil(
                    base,
                    domain,
                    found[domain.name],
                    patterns[domain.name],
                    state=state,
                    progress=stepped,
                    **arithmetic,
                )
            for domain in missing:  # all at the end: the same command finds its work only while none is there
                name, recipe = domain.name, plan.recipes[domain.name]
                if passes > 1:
                    recipe["block_sparsity"] = [block.sparsity for block in patterns[name]]
                seen = _seen(domain, found[name].unseen, moved.get(name), pace, started)
                target.add(name, moved[name].masks if moved else found[name], {**recipe, **seen})
            work.remove()
            return missing, resumed
    except (OSError, SubmodelError, OverBudget) as error:
        # a refusal leaves nothing behind; only a run that was interrupted or killed can go on
        shutil.rmtree(out if fresh else out / "work" / str(folder), ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise SubmodelError(f"{out}: {error.strerror or error}: free some room, then give the same command") from error


class _Progress:
    """Adds up the passes of the walk and, after them, the tokens of `later`, as runs of blocks."""

    def __init__(self, tell: Callable[[int, int], Any], base: Base, passes: int, later: Sequence[Samples]):
        self._tell, self._passes = tell, passes
        self._runs = _DISTIL_RUNS * base.config.get_text_config().num_hidden_layers
        self._more = self._runs * sum(len(domain.tokens) for domain in later)
        self._done = self._total = 0

    def walk(self, number: int) -> Callable[[int, int], None]:
        """What to tell the pass of this number."""

        def tell(done: int, total: int) -> None:
            self._done, self._total = number * total + done, self._passes * total + self._more
            self._tell(self._done, self._total)

        return tell

    def tokens(self, count: int) -> None:
        """So many more of the later ones are done."""
        self._done += self._runs * count
        self._tell(self._done, self._total)


def _first_part(domain: Samples) -> Samples:
    """Samples of at least `_WALKED` tokens, or all."""
    sizes = torch.tensor(domain.sizes)
    return domain.take(slice(int((sizes.cumsum(0) < _WALKED).sum()) + 1))


def fit_routing(base: Base, target: store.Store, domains: Sequence[Samples]) -> None:
    """Keep what the domains' texts look like, for the router; only what was made from text can be told by text."""
    if texts := [domain for domain in domains if domain.provenance is not None]:
        with target.lock():
            pooler = Pooler(base)
            for domain in texts:
                fit_samples(target, pooler, domain.name, domain)


def _seen(
    domain: Samples, unseen: list[str], moved: Distilled | None, pace: Pace | None, started: float
) -> dict[str, Any]:
    """What a manifest says beside the recipe."""
    found: dict[str, Any] = {"unseen_experts": sorted(unseen), "seconds": round(time.monotonic() - started, 1)}
    if moved:
        found["distil"] = {"losses": [round(loss, 4) for loss in moved.losses]}
    if domain.contamination is not None:
        found["contamination"] = domain.contamination
    if domain.settling is not None:
        found["settling"] = domain.settling
    if pace:
        found["auto"] = pace.choice.as_dict()
    return {**found, "created": datetime.now(UTC).isoformat()}


def _recipe(
    domain: Samples,
    base: Base,
    method: str,
    pattern: Pattern,
    allocation: str,
    openings: int,
    dtype: torch.dtype,
    device: str,
    batch_tokens: int,
) -> dict[str, Any]:
    """What decides a sub-model's masks, what made it, and a key over the former."""
    deciding = {
        "domain": domain.name,
        "method": method,
        "sparsity": pattern.sparsity,
        "pattern": str(pattern),
        "group": "row",
        **({} if allocation == "uniform" else {"allocation": allocation}),
        **({"openings": openings} if openings else {}),
        "base_sha256": base.sha256,
        "calibration": None if domain.provenance is None else domain.provenance.as_dict(),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device,
        "batch_tokens": batch_tokens,
    }
    versions = {name: version(name) for name in ("submodel", "torch", "transformers", "tokenizers")}
    key = hashlib.sha256(json.dumps([deciding, versions, store.FORMAT], sort_keys=True).encode()).hexdigest()
    return {**deciding, "versions": versions, "machine": f"{platform.machine()} {platform.system()}", "key": key}


def _is_there(target: store.Store, name: str, key: str) -> bool:
    if not (target.path / "submodels" / name / "manifest.json").exists():
        return False
    if target.manifest(name)["key"] != key:
        raise SubmodelError(
            f"{target.path}@{name}: already there with another recipe: give another --name, or remove "
            f"{target.path / 'submodels' / name}"
        )
    return True
