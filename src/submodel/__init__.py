"""Derive specialised sub-models from one language model by pruning, and keep them as bitmasks over it.

The public names, loaded when first used, so that `submodel --help` does not wait for torch:

    base = submodel.open_base("model-directory")
    text = submodel.load_samples("python", "sources/:python", base.tokenizer, samples=64, seq_len=512, seed=0)
    submodel.extract(base, [text], Path("coder.store"))
    coder = submodel.load("coder.store@python")
    print(submodel.generate(coder, "def "))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.calibration import Samples, load_samples
    from submodel.compare import compare_masks
    from submodel.export import export_directory
    from submodel.models import Base, open_base
    from submodel.prune import METHODS
    from submodel.prune.extract import extract
    from submodel.prune.verify import verify
    from submodel.runtime import generate, load
    from submodel.store import Store
    from submodel.tasks import TASKS, evaluate

_HOMES = {
    "Base": "submodel.models",
    "METHODS": "submodel.prune",
    "Samples": "submodel.calibration",
    "Store": "submodel.store",
    "TASKS": "submodel.tasks",
    "compare_masks": "submodel.compare",
    "evaluate": "submodel.tasks",
    "export_directory": "submodel.export",
    "extract": "submodel.prune.extract",
    "generate": "submodel.runtime",
    "load": "submodel.runtime",
    "load_samples": "submodel.calibration",
    "open_base": "submodel.models",
    "verify": "submodel.prune.verify",
}

__all__ = [
    "METHODS",
    "TASKS",
    "Base",
    "Samples",
    "Store",
    "SubmodelError",
    "compare_masks",
    "evaluate",
    "export_directory",
    "extract",
    "generate",
    "load",
    "load_samples",
    "open_base",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'submodel' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
