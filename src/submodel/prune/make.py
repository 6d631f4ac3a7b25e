"""Make sub-models: walk the base, move the masks by gradients and fit the weights where the method says so.

A mask that gradients moved is fitted on a walk of its own. Where the store has that mask already, made by the same
recipe but for the fit, it is taken from there, and neither the first walk nor the gradients are run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from submodel import store
from submodel.calibration import Samples, with_openings
from submodel.models import Base
from submodel.prune import METHODS, sensitivity
from submodel.prune.allocation import ALLOCATIONS, allocate
from submodel.prune.decide import decider, gridder, refitter
from submodel.prune.distil import RATE, distil
from submodel.prune.recipe import Settings, recipe
from submodel.prune.statistics import SquaredNorm
from submodel.prune.toward import Toward
from submodel.prune.watch import Watch
from submodel.prune.work import Work
from submodel.stream import Pruned, walk

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
    looked = [domain.first(_WALKED) for domain in domains] if method.distilled else domains
    config = base.config.get_text_config()

    def opened(texts: Sequence[Samples]) -> Sequence[Samples]:
        return [with_openings(d, settings.openings, config.vocab_size) for d in texts] if settings.openings else texts

    walked, last = opened(looked), []
    if method.distilled:  # another walk, when gradients have moved the mask; a fit is the better the more it reads
        last = opened(domains) if method.refitted else walked if settings.grid else []
    there = _there(base, domains, settings, target) if last else {}
    if there:
        watch.begin(work.folder, config.num_hidden_layers, [], [], [], last, method.refitted)
        found = _taken(target, there)
    else:
        found = _decided(base, domains, looked, walked, last, settings, work, watch)
    made = found.masks
    if last:
        fits = Work(work.folder / "fits")
        walk(
            base,
            last,
            make=Toward if method.refitted else SquaredNorm,
            paired=method.refitted,
            decide=refitter(dict(made), method.refitted),
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


def _decided(
    base: Base,
    domains: Sequence[Samples],
    looked: Sequence[Samples],
    walked: Sequence[Samples],
    last: Sequence[Samples],
    settings: Settings,
    work: Work,
    watch: Watch,
) -> _Found:
    """Walk, and distil where the method says so.

    `looked` is what of the domains a walk reads, `walked` the same with openings, `last` what the last one will read.
    """
    method, rule = METHODS[settings.method], ALLOCATIONS[settings.allocation]
    arithmetic = {"dtype": settings.dtype, "device": settings.device}
    run = partial(walk, base, batch_tokens=settings.batch_tokens, **arithmetic)
    passes = [*[looked] * (rule.walks if rule else 0), walked]
    before = [domain.first(sensitivity.TOKENS) for domain in looked] if rule and rule.whole else []
    later = domains if method.distilled else []
    blocks = base.config.get_text_config().num_hidden_layers
    watch.begin(work.folder, blocks, before, passes, later, last, method.refitted)
    patterns = allocate(
        settings.allocation,
        base,
        looked,
        settings.pattern,
        work.folder,
        walk=partial(run, looked, progress=watch.walk(0)),
        gradients=partial(sensitivity.costs, base, progress=watch.gradients, **arithmetic),
    )

    def keep(block: int, found: dict[str, dict[str, Pruned]]) -> None:
        work.keep(block, found)
        watch.block(block)

    resumed = run(
        walked,
        make=Toward if method.fits else method.statistic or (SquaredNorm if settings.grid else None),  # a grid: a run
        paired=method.fits,
        decide=decider(method, patterns, work),
        keep=keep,
        work=work.folder,
        afterwards=gridder(settings.grid) if settings.grid and not last else None,
        progress=watch.walk(len(passes) - 1),
    )
    masks: dict[str, store.Masks] = {}
    said: dict[str, dict[str, Any]] = {}
    for domain in domains:
        own, name = work.result(domain.name), domain.name
        masks[name], said[name] = own, {"unseen_experts": sorted(own.unseen)}
        if rule:
            said[name]["matrix_sparsity"] = {matrix: one.sparsity for matrix, one in patterns[name].items()}
    for domain in later:
        moved = distil(
            base,
            domain,
            masks[domain.name],
            patterns[domain.name],
            rate=settings.rate or RATE,
            state=work.folder / f"{domain.name}.distil",
            progress=watch.step,
            **arithmetic,
        )
        masks[domain.name] = moved.masks
        said[domain.name]["distil"] = {"losses": [round(loss, 4) for loss in moved.losses]}
    return _Found(masks, said, resumed)


def _there(base: Base, domains: Sequence[Samples], settings: Settings, target: store.Store) -> dict[str, str]:
    """Domain -> the sub-model of the store that has the mask to fit; empty unless it has those of all domains.

    Only a recipe that says where the text came from tells one text from another.
    """
    moved = replace(settings, method=settings.method.removesuffix("+reconstruct"), grid=None)
    manifests = {name: target.manifest(name) for name in target.names}
    found: dict[str, str] = {}
    for domain in domains:
        for name, manifest in manifests.items() if domain.provenance else ():
            if manifest["key"] == recipe(base, replace(domain, name=manifest["domain"]), moved)["key"]:
                found[domain.name] = name
    return found if len(found) == len(domains) else {}


def _taken(target: store.Store, there: dict[str, str]) -> _Found:
    """The masks of sub-models of the store."""
    masks: dict[str, store.Masks] = {}
    said: dict[str, dict[str, Any]] = {}
    for domain, name in there.items():
        manifest = target.manifest(name)
        kept = ("unseen_experts", "matrix_sparsity", "distil")
        masks[domain] = target.masks(name)
        said[domain] = {key: manifest[key] for key in kept if key in manifest}
        said[domain]["mask_of"] = {"name": name, "seconds": manifest["seconds"]}
    return _Found(masks, said)


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
