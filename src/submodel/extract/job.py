"""The job: run the steps of an extraction for all domains at once, and put the sub-models into a store.

Work in progress lives in the store under work/, named by the keys of what is made, so the same command finds it after a
kill and another command does not. The steps whose result the store or the work folder has already are skipped.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from submodel import store
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.calibration.vocabulary_text import VocabularyText
from submodel.errors import SubmodelError
from submodel.extract.check import check
from submodel.extract.plan import Plan, make_plan
from submodel.extract.recipe import recipe, step_keys
from submodel.extract.step import State
from submodel.extract.steps import Walk
from submodel.extract.workdir import WorkFolder
from submodel.prune.sparsity import Sparsity
from submodel.router.pooled import Pooler
from submodel.router.profile import fit_samples, is_fitted
from submodel.walk import rehearse

_FACTS = ("unseen_experts", "matrix_sparsity", "distil")  # of a manifest, that steps after it carry on


@dataclass(frozen=True)
class Extraction:
    """The result of one extraction.

    Attributes:
        store: the store's directory.
        manifests: name -> manifest of every sub-model asked for.
        already: the names that were there before, with the same recipe.
        resumed_blocks: blocks that an earlier, killed run had done.
        seconds: wall time.
        plan: what was done; None of a search, which carries out several.
    """

    store: Path
    manifests: dict[str, dict[str, Any]]
    already: list[str]
    resumed_blocks: int
    seconds: float
    plan: Plan | None = None

    def __repr__(self) -> str:
        return f"<Extraction {', '.join(f'{self.store}@{name}' for name in self.manifests)}, {self.seconds:.0f} s>"


def extract(
    base: Base,
    domains: Sequence[Samples],
    out: Path | str,
    *,
    method: str | None = None,
    allocation: str | None = None,
    effort: str | None = None,
    sparsity: Sparsity | None = None,
    grid: str | None = None,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    batch_tokens: int = 512,
    vocab_loss: float | None = None,
    vocabulary_texts: Mapping[str, VocabularyText] | None = None,
    held_out: Mapping[str, Samples] | None = None,
    routing: bool = True,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Extraction:
    """Derive one sub-model per domain; every block of the base is read once for all of them.

    Args:
        base: the base model.
        domains: token samples; a sub-model gets its domain's name.
        out: the store, made if it is not there.
        method: a key of SCORES, with `+reconstruct`, `+distil` or both after it (see `steps.parse`).
        allocation: a key of ALLOCATIONS: how the sparsity is spread; uniform if None and a method is given.
        effort: "quick", "good" or "best", in place of a method (see `effort`); "good" if neither is given.
        sparsity: what to remove; half of every row if None.
        grid: a packed format, a member of `runtime.packed.formats.GRIDS`, to whose grid the kept weights are rounded.
        seed: of whatever chance enters a score.
        dtype: of the arithmetic; bfloat16 where the processor has it, else float32.
        device: where blocks run.
        batch_tokens: about how many tokens run at once in one worker (a core).
        vocab_loss: choose the tokens that the domain needs, so that its text loses at most this part of its bits a
            byte; all are kept if None.
        vocabulary_texts: domain -> the text that says which these are (`calibration.vocabulary_text`).
        held_out: domain -> text that its calibration has not read, on which it is measured against the base.
        routing: keep what the router needs of each domain's text as well.
        progress: told tokens done and in all; a token counts once per run of a block.

    Returns:
        The manifests. A sub-model that is there already with the same recipe is left as it is.

    Raises:
        SubmodelError: an unknown method, effort, allocation or grid, one that does not fit the sparsity, the text or
            the memory, a name that is taken, a store of another base, a full disk.
    """
    plan = make_plan(
        base,
        domains,
        method=method,
        allocation=allocation,
        effort=effort,
        sparsity=sparsity,
        grid=grid,
        seed=seed,
        dtype=dtype,
        device=device,
        batch_tokens=batch_tokens,
        vocab_loss=vocab_loss,
        vocabulary_texts=vocabulary_texts,
    )
    return run(plan, Path(out), held_out=held_out, routing=routing, progress=progress)


def run(
    plan: Plan,
    out: Path,
    *,
    held_out: Mapping[str, Samples] | None = None,
    routing: bool = True,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Extraction:
    """Carry out a plan; arguments, result and errors are those of `extract`."""
    started, job = time.monotonic(), plan.job
    keys = {name: step_keys(job, plan.steps, text) for name, text in job.texts.items()}
    begun, resumed = out if not out.exists() else None, 0
    missing: list[str] = []
    try:
        target = store.open_or_create(out, job.base.identity)
        with target.lock():
            missing = [name for name in job.texts if not _is_there(target, name, keys[name][-1])]
            if missing:
                work = WorkFolder(out, (keys[name][-1] for name in missing))
                begun, earlier_blocks = begun or work.path, work.blocks_done
                if not earlier_blocks and any(isinstance(step, Walk) and step.reads for step in plan.steps):
                    rehearse(job.base, job.dtype, job.device)
                states = run_steps(plan, {name: keys[name] for name in missing}, target, work, progress)
                # a block that an earlier run had not finished, or whose files were damaged, was written again
                resumed = len(earlier_blocks.items() & work.blocks_done.items())
                masks = {name: state.masks for name, state in states.items() if state.masks is not None}
                checks = check(job.base, _of(held_out, missing), masks, job.device) if held_out else {}
                for name in missing:  # all at the end: the same command finds its work only while none is there
                    manifest = recipe(job, plan.steps, plan.method, name, keys[name][-1])
                    manifest |= dict(states[name].facts) | _beside(job.texts[name], started)
                    if name in checks:
                        manifest["check"] = checks[name].as_dict()
                    target.add(name, masks[name], manifest, states[name].vocabulary)
                work.remove()
            begun = None  # the sub-models are complete by now
            if routing:
                fit_routing(job.base, target, list(job.texts.values()))
    except (OSError, SubmodelError) as error:
        # a refusal leaves nothing behind; only a run that was interrupted or killed can go on
        if begun:
            shutil.rmtree(begun, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise SubmodelError(f"{out}: {error.strerror or error}: free some room, then give the same command") from error
    manifests = {name: target.manifest(name) for name in job.texts}
    already = [name for name in job.texts if name not in missing]
    return Extraction(out, manifests, already, resumed, time.monotonic() - started, plan)


def run_steps(
    plan: Plan,
    keys: Mapping[str, Sequence[str]],
    target: store.Store,
    work: WorkFolder,
    progress: Callable[[int, int], Any],
) -> dict[str, State]:
    """Run the steps that neither the store nor the work folder has done; the last state of every domain in `keys`."""
    first, states = _from_store(keys, target)
    before = 0
    for index, (step, cost) in enumerate(zip(plan.steps, plan.costs, strict=True)):
        if index >= first:
            if work.is_done(index, step.name):
                states = work.load(index, step.name, states)
            else:

                def report(done: int, before: int = before) -> None:
                    progress(before + done, plan.block_tokens)

                earlier, folder = states, work.folder(index, step.name)
                work.save(index, step.name, earlier, step.run(plan.job, earlier, folder, report))
                states = work.load(index, step.name, earlier)
        before += cost.block_tokens
        progress(before, plan.block_tokens)
    return states


def _from_store(keys: Mapping[str, Sequence[str]], target: store.Store) -> tuple[int, dict[str, State]]:
    """How many of the first steps the store has the result of, for all domains, and that result."""
    manifests = [target.manifest(name) for name in target.names]
    by_key = {manifest["key"]: manifest for manifest in manifests}
    steps = min(len(of_domain) for of_domain in keys.values())
    for done in range(steps - 1, 0, -1):
        made = {name: by_key.get(of_domain[done - 1]) for name, of_domain in keys.items()}
        if all(made.values()):
            return done, {name: _stored(target, manifest) for name, manifest in made.items() if manifest}
    return 0, {name: State() for name in keys}


def _stored(target: store.Store, manifest: dict[str, Any]) -> State:
    facts = {key: manifest[key] for key in _FACTS if key in manifest}
    seconds = manifest["seconds"] + manifest.get("mask_of", {}).get("seconds", 0)
    facts["mask_of"] = {"name": manifest["name"], "seconds": seconds}
    return State(masks=target.masks(manifest["name"]), facts=facts)


def _of(held_out: Mapping[str, Samples], names: Sequence[str]) -> dict[str, Samples]:
    return {name: held_out[name] for name in names if name in held_out}


def _is_there(target: store.Store, name: str, key: str) -> bool:
    """Whether a store has this sub-model. Raises SubmodelError when it has another of that name."""
    if not (target.path / "submodels" / name / "manifest.json").exists():
        return False
    if target.manifest(name)["key"] != key:
        raise SubmodelError(
            f"{target.path}@{name}: already there with another recipe: give another --name, or "
            f"submodel remove {target.path}@{name}"
        )
    return True


def _beside(text: Samples, started: float) -> dict[str, Any]:
    """What a manifest says beside the recipe and what the steps found out."""
    known = {"contamination": text.contamination, "settling": text.settling}
    return {
        "seconds": round(time.monotonic() - started, 1),
        **{key: value for key, value in known.items() if value is not None},
        "created": datetime.now(UTC).isoformat(),
    }


def fit_routing(base: Base, target: store.Store, domains: Sequence[Samples]) -> None:
    """Keep what the domains' texts look like, for the router, where it is not there yet; the store is locked.

    Only what was made from text can be told by text.
    """
    if texts := [d for d in domains if d.provenance is not None and not is_fitted(target, d.name)]:
        pooler = Pooler(base)
        for domain in texts:
            fit_samples(target, pooler, domain.name, domain)
