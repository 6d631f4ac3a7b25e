"""Pruning methods, and the extraction of sub-models with them."""

from dataclasses import replace

from submodel.prune.magnitude import MAGNITUDE
from submodel.prune.method import Method
from submodel.prune.reconstruct import reconstructed
from submodel.prune.ria import RIA
from submodel.prune.sparsegpt import SPARSEGPT
from submodel.prune.swaps import SWAPS
from submodel.prune.wanda import WANDA

METHODS: dict[str, Method] = {
    "magnitude": MAGNITUDE,
    "wanda": WANDA,
    "ria": RIA,
    "swaps": SWAPS,
    "sparsegpt": SPARSEGPT,
}
_MOVED = {
    f"{name}+distil": replace(METHODS[name], about=f"{METHODS[name].about}; then moved by gradients", distilled=True)
    for name in ("wanda", "ria", "swaps")
}
METHODS |= _MOVED | {f"{name}+reconstruct": reconstructed(method) for name, method in (METHODS | _MOVED).items()}
