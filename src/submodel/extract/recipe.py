"""What decides a sub-model's masks: the recipe in its manifest, and a key by which the same command finds its work."""

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from submodel import store
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.prune import METHODS
from submodel.prune.allocate.allocation import ALLOCATIONS
from submodel.prune.learn.distil import HIDDEN, STEP_TOKENS
from submodel.prune.refit import FIT_TOKENS
from submodel.prune.sparsity import Pattern


@dataclass(frozen=True)
class Settings:
    """What decides masks beside the base and a domain's text; the fields are those of `extract`, all of them known."""

    method: str
    pattern: Pattern
    allocation: str
    openings: int
    rate: float | None
    grid: str | None
    dtype: torch.dtype
    device: str
    batch_tokens: int


def recipe(base: Base, domain: Samples, settings: Settings) -> dict[str, Any]:
    """What decides the masks, what makes them, and `key` over the two."""
    rule = ALLOCATIONS[settings.allocation]
    deciding = {
        "domain": domain.name,
        "method": settings.method,
        "sparsity": settings.pattern.sparsity,
        "pattern": str(settings.pattern),
        "group": "matrix" if rule and rule.by_row else "row",  # whose sparsity is given
        **({"allocation": settings.allocation} if rule else {}),
        **({"openings": settings.openings} if settings.openings else {}),
        **({"rate": settings.rate} if settings.rate else {}),
        **({"grid": settings.grid} if settings.grid else {}),
        **({"step_tokens": STEP_TOKENS, "hidden": HIDDEN} if METHODS[settings.method].distilled else {}),
        **({"fit": "dense"} if METHODS[settings.method].refitted else {}),  # the target; before, own inputs alone
        **({"fit_tokens": FIT_TOKENS} if METHODS[settings.method].fitted_first else {}),  # before, half of the text
        "base_sha256": base.sha256,
        "calibration": None if domain.provenance is None else domain.provenance.as_dict(),
        "dtype": str(settings.dtype).removeprefix("torch."),
        "device": settings.device,
        "batch_tokens": settings.batch_tokens,
    }
    versions = {name: version(name) for name in ("submodel", "torch", "transformers", "tokenizers")}
    key = hashlib.sha256(json.dumps([deciding, versions, store.FORMAT], sort_keys=True).encode()).hexdigest()
    return {**deciding, "versions": versions, "machine": f"{platform.machine()} {platform.system()}", "key": key}


def is_there(target: store.Store, name: str, key: str) -> bool:
    """Whether a store has this sub-model. Raises SubmodelError when it has another of that name."""
    if not (target.path / "submodels" / name / "manifest.json").exists():
        return False
    if target.manifest(name)["key"] != key:
        raise SubmodelError(
            f"{target.path}@{name}: already there with another recipe: give another --name, or "
            f"submodel remove {target.path}@{name}"
        )
    return True
