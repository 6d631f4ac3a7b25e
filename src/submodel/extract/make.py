"""Make sub-models: walk the base, move the masks by gradients and fit the weights where the method says so.

A mask that gradients moved is fitted on a walk of its own. What the store has already, made by the same recipe but for
what comes after it, is taken from there and not made again: the mask that is fitted, or the one that gradients move.

Where a fit comes before the gradients, it reads the first half of the text, or less of much, and they the rest: a model
that is fitted to a text says nearly what the dense model says there, and gradients would learn the rest of it by heart;
and more text wins more by gradients than by the fit (dev/LOG.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from submodel import store
from submodel.base.models import Base
from submodel.calibration import Samples, with_openings
from submodel.errors import SubmodelError
from submodel.extract.per_matrix import decider, gridder, keeper, refitter
from submodel.extract.progress import Watch
from submodel.extract.recipe import Settings, recipe
from submodel.extract.workdir import Work
from submodel.prune import METHODS
from submodel.prune.allocate.allocation import ALLOCATIONS, allocate
from submodel.prune.dense_target import Toward
from submodel.prune.learn.distil import RATE, distil
from submodel.prune.refit import FIT_TOKENS
from submodel.prune.scores.score import Method
from submodel.prune.statistics import SquaredNorm
from submodel.walk import Pruned, walk

_WALKED = 32768  # tokens that the walk reads where a whole model's gradients come after it


@dataclass(frozen=True)
class Plan:
    """How one method makes all sub-models asked for; `recipes` by their names."""

    settings: Settings
    recipes: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Found:
    """The masks of every domain, and what its manifest says of them.

    `resumed` blocks were done by an earlier, killed run.
    """

    masks: dict[str, store.Masks]
    said: dict[str, dict[str, Any]]
    resumed: int = 0


def make(base: Base, domains: Sequence[Samples], plan: Plan, target: store.Store, work: Work, watch: Watch) -> int:
    """Make the sub-models and add them to the store.

    Args:
        base: the base model.
        domains: one a sub-model.
        plan: how.
        target: the store; it has none of them.
        work: where what is done is kept until all is.
        watch: told how far it has come.

    Returns:
        The blocks that an earlier, killed run had done.

    Raises:
        OverBudget: another method should be taken.
        SubmodelError: as `extract`.
    """
    settings = plan.settings
    method = METHODS[settings.method]
    looked, later = _shared_out(method, domains)
    last: list[Samples] = []  # another walk, when gradients have moved the mask
    if method.fits_at_last:
        last = _opened(base, domains, settings)  # a fit is the better the more it reads
    elif method.distilled and settings.grid:
        last = _opened(base, looked, settings)
    moved = replace(settings, method=settings.method.removesuffix("+reconstruct"), grid=None)
    found = _there(base, domains, moved, target) if last else None
    if found:
        watch.begin(work.folder, _blocks(base), 0, [], [], last, method)
    else:
        walked = replace(moved, method=moved.method.removesuffix("+distil"), rate=None)
        whole = all(len(part.ids) == len(domain.ids) for part, domain in zip(looked, domains, strict=True))
        found = _there(base, domains, walked, target) if later and whole else None
        if found:
            watch.begin(work.folder, _blocks(base), 0, [], later, last, method)
        else:
            found = _decided(base, looked, later, last, settings, work, watch)
        if later:
            found = _moved(base, later, found, settings, work, watch)
    made = found.masks
    if last:
        fits = Work(work.folder / "fits")
        walk(
            base,
            last,
            make=Toward if method.fits_at_last else SquaredNorm,
            paired=method.fits_at_last,
            decide=refitter(made) if method.fits_at_last else keeper(made),
            keep=fits.keep,
            work=fits.folder,
            afterwards=gridder(settings.grid) if settings.grid else None,
            dtype=settings.dtype,
            device=settings.device,
            batch_tokens=settings.batch_tokens,
            progress=watch.refit,
        )
        made = {name: fits.result(name) for name in made}
    for domain in domains:  # all at the end: the same command finds its work only while none is there
        manifest = plan.recipes[domain.name] | found.said[domain.name] | _seen(domain, watch)
        target.add(domain.name, made[domain.name], manifest)
    return found.resumed


def _shared_out(method: Method, domains: Sequence[Samples]) -> tuple[list[Samples], list[Samples]]:
    """What of each domain's text the walk reads that decides masks, and what gradients do, if they are taken."""
    if not method.distilled:
        return list(domains), []
    if not method.fitted_first:
        return [domain.first(_WALKED) for domain in domains], list(domains)
    for domain in domains:
        if len(domain.ids) < 2:
            raise SubmodelError(
                f"{domain.name}: {len(domain.ids)} sample, of which a part is for the fit and another for gradients: "
                "give more --samples, a lower --seq-len"
            )
    fits = [domain.take(slice(len(domain.ids) // 2)).first(FIT_TOKENS) for domain in domains]
    return fits, [domain.take(slice(len(fit.ids), None)) for domain, fit in zip(domains, fits, strict=True)]


def _blocks(base: Base) -> int:
    return base.config.get_text_config().num_hidden_layers


def _opened(base: Base, texts: Sequence[Samples], settings: Settings) -> list[Samples]:
    """Texts with the one-token samples that a walk reads beside them."""
    if not settings.openings:
        return list(texts)
    return [with_openings(text, settings.openings, base.config.get_text_config().vocab_size) for text in texts]


def _decided(
    base: Base,
    looked: Sequence[Samples],
    later: Sequence[Samples],
    last: Sequence[Samples],
    settings: Settings,
    work: Work,
    watch: Watch,
) -> _Found:
    """Walk; `looked` is what it reads, `later` and `last` what gradients and a last walk will."""
    method, rule = METHODS[settings.method], ALLOCATIONS[settings.allocation]
    arithmetic = {"dtype": settings.dtype, "device": settings.device}
    run = partial(walk, base, batch_tokens=settings.batch_tokens, **arithmetic)
    walked = _opened(base, looked, settings)
    passes = [*[looked] * (rule.walks if rule else 0), walked]
    before = sum(rule.reads(domain) for domain in looked) if rule and rule.reads else 0
    watch.begin(work.folder, _blocks(base), before, passes, later, last, method)
    patterns = allocate(
        settings.allocation,
        base,
        looked,
        settings.pattern,
        work.folder,
        walk=partial(run, looked, progress=watch.walk(0)),
        gradients=lambda measure, *given, **more: measure(base, *given, progress=watch.gradients, **arithmetic, **more),
    )

    def keep(block: int, found: dict[str, dict[str, Pruned]]) -> None:
        work.keep(block, found)
        watch.block(block)

    resumed = run(
        walked,
        make=Toward if method.paired else method.statistic or (SquaredNorm if settings.grid else None),  # a grid: a run
        paired=method.paired,
        decide=decider(method, patterns, work),
        keep=keep,
        work=work.folder,
        afterwards=gridder(settings.grid) if settings.grid and not last else None,
        progress=watch.walk(len(passes) - 1),
    )
    masks: dict[str, store.Masks] = {}
    said: dict[str, dict[str, Any]] = {}
    for domain in looked:
        own, name = work.result(domain.name), domain.name
        masks[name], said[name] = own, {"unseen_experts": sorted(own.unseen)}
        if rule:
            said[name]["matrix_sparsity"] = {matrix: one.sparsity for matrix, one in patterns[name].items()}
    return _Found(masks, said, resumed)


def _moved(base: Base, texts: Sequence[Samples], start: _Found, settings: Settings, work: Work, watch: Watch) -> _Found:
    """The masks that gradients of a text make of a start, and its weights where it has some of its own."""
    masks: dict[str, store.Masks] = {}
    said: dict[str, dict[str, Any]] = {}
    for text in texts:
        name = text.name
        found = distil(
            base,
            text,
            start.masks[name],
            settings.pattern,
            dtype=settings.dtype,
            device=settings.device,
            rate=settings.rate or RATE,
            state=work.folder / f"{name}.distil",
            progress=watch.step,
        )
        masks[name] = found.masks
        said[name] = {**start.said[name], "distil": {"losses": [round(loss, 4) for loss in found.losses]}}
    return _Found(masks, said, start.resumed)


def _there(base: Base, domains: Sequence[Samples], settings: Settings, target: store.Store) -> _Found | None:
    """What these settings make, taken from the store; None unless that has it of all domains.

    Only a recipe that says where the text came from tells one text from another.
    """
    manifests = {name: target.manifest(name) for name in target.names}
    masks: dict[str, store.Masks] = {}
    said: dict[str, dict[str, Any]] = {}
    for domain in domains:
        for name, manifest in manifests.items() if domain.provenance else ():
            if manifest["key"] == recipe(base, replace(domain, name=manifest["domain"]), settings)["key"]:
                kept = ("unseen_experts", "matrix_sparsity", "distil")
                seconds = manifest["seconds"] + manifest.get("mask_of", {}).get("seconds", 0)
                masks[domain.name] = target.masks(name)
                said[domain.name] = {key: manifest[key] for key in kept if key in manifest}
                said[domain.name]["mask_of"] = {"name": name, "seconds": seconds}
    return _Found(masks, said) if len(masks) == len(domains) else None


def _seen(domain: Samples, watch: Watch) -> dict[str, Any]:
    """What a manifest says beside the recipe and the masks."""
    found: dict[str, Any] = {"seconds": round(watch.seconds, 1)}
    if domain.contamination is not None:
        found["contamination"] = domain.contamination
    if domain.settling is not None:
        found["settling"] = domain.settling
    if watch.choice:
        found["auto"] = watch.choice.as_dict()
    return {**found, "created": datetime.now(UTC).isoformat()}
