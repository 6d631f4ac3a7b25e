"""What decides a sub-model: its recipe in the manifest, and the keys by which what is there already is known.

A key is a digest of all that decides a step's result: the base, the sparsity, the arithmetic, the text that the step
reads, every constant of its own, and the same of the steps before it. So a sub-model in the store, or a step in the
work folder, serves whatever begins with the same steps on the same text.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from submodel import store
from submodel.calibration import Samples
from submodel.extract.step import Job, Step
from submodel.extract.steps import UNIFORM
from submodel.extract.vocabulary import ChooseVocabulary
from submodel.prune.sparsity import NM


@dataclass(frozen=True)
class Method:
    """What was asked for by name: goes into the manifest beside the steps it stands for."""

    name: str
    allocation: str = UNIFORM
    grid: str | None = None
    vocab_loss: float | None = None


def step_keys(job: Job, steps: Sequence[Step], text: Samples) -> list[str]:
    """The key of what each step leaves of one domain, from its text."""
    counted = job.vocabulary_texts.get(text.name)  # read by a step of its own, which is the last
    key = _digest([_common(job), _versions(), store.FORMAT])
    keys: list[str] = []
    for step in steps:
        read = step.reads.of(text).digest if step.reads else None
        if isinstance(step, ChooseVocabulary) and counted is not None:
            read = counted.digest
        key = _digest([key, step.key(), read])
        keys.append(key)
    return keys


def recipe(job: Job, steps: Sequence[Step], method: Method, domain: str, key: str) -> dict[str, Any]:
    """All that decides a domain's sub-model, what makes it, and its key, the last of `step_keys`: for the manifest."""
    text = job.texts[domain]
    by_row = method.allocation != UNIFORM
    return {
        "domain": domain,
        "method": method.name,
        "sparsity": job.sparsity.fraction,
        "pattern": str(job.sparsity),
        "group": "matrix" if by_row else "row",  # whose sparsity is given
        **({"allocation": method.allocation} if by_row else {}),
        **({"grid": method.grid} if method.grid else {}),
        "steps": [{**step.key(), "reads": step.reads.as_dict() if step.reads else None} for step in steps],
        **_common(job),
        "calibration": None if text.provenance is None else text.provenance.as_dict(),
        "parameters": job.base.parameters,
        "versions": _versions(),
        "machine": f"{platform.machine()} {platform.system()}",
        "key": key,
    }


def _common(job: Job) -> dict[str, Any]:
    sparsity = str(job.sparsity) if isinstance(job.sparsity, NM) else job.sparsity.fraction
    return {
        "base_sha256": job.base.sha256,
        "removed": sparsity,
        "seed": job.seed,
        "dtype": str(job.dtype).removeprefix("torch."),
        "device": job.device,
        "batch_tokens": job.batch_tokens,
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("submodel", "torch", "transformers", "tokenizers")}


def _digest(document: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
