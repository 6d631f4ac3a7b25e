"""Pruning methods, and the extraction of sub-models with them."""

from dataclasses import replace

from submodel.prune.scores.exchange import PURSUIT, SWAPS
from submodel.prune.scores.magnitude import MAGNITUDE
from submodel.prune.scores.ria import RIA
from submodel.prune.scores.score import Method
from submodel.prune.scores.sparsegpt import SPARSEGPT
from submodel.prune.scores.wanda import WANDA

METHODS: dict[str, Method] = {
    "magnitude": MAGNITUDE,
    "wanda": WANDA,
    "ria": RIA,
    "swaps": SWAPS,
    "pursuit": PURSUIT,
    "sparsegpt": SPARSEGPT,
}
_MOVED = ("wanda", "ria", "swaps", "pursuit")
METHODS |= {
    f"{name}+distil": replace(METHODS[name], about=f"{METHODS[name].about}; then moved by gradients", distilled=True)
    for name in _MOVED
}
METHODS |= {
    f"{name}+reconstruct": replace(
        method, about=f"{method.about}; the kept weights fitted by least squares", refitted=True
    )
    for name, method in METHODS.items()
}
METHODS |= {
    f"{name}+reconstruct+distil": replace(
        METHODS[f"{name}+reconstruct"],
        about=f"{METHODS[f'{name}+reconstruct'].about}; then the mask moved by gradients",
        distilled=True,
        fitted_first=True,
    )
    for name in _MOVED
}
