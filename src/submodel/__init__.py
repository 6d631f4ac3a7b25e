"""Derive specialised sub-models from one language model by pruning, and keep them as bitmasks over it.

The public names, loaded when first used, so that `submodel --help` does not wait for torch:

    base = submodel.open_base("model-directory")
    text = submodel.load_samples("python", "sources/:python", base.tokenizer, samples=64, seq_len=512, seed=0)
    submodel.extract(base, [text], Path("coder.store"))
    coder = submodel.load("coder.store@python")
    print(submodel.generate(coder, "def "))
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.base.models import Base
    from submodel.base.opening import open_base
    from submodel.calibration import Samples, load_samples
    from submodel.export import export_directory
    from submodel.extract.job import extract
    from submodel.prune import METHODS
    from submodel.runtime import generate, load
    from submodel.store import Store
    from submodel.store.compare import compare_masks
    from submodel.store.verify import verify
    from submodel.tasks import TASKS, evaluate

_HOMES = {
    "Base": "submodel.base.models",
    "METHODS": "submodel.prune",
    "Samples": "submodel.calibration",
    "Store": "submodel.store",
    "TASKS": "submodel.tasks",
    "compare_masks": "submodel.store.compare",
    "evaluate": "submodel.tasks",
    "export_directory": "submodel.export",
    "extract": "submodel.extract.job",
    "generate": "submodel.runtime",
    "load": "submodel.runtime",
    "load_samples": "submodel.calibration",
    "open_base": "submodel.base.opening",
    "verify": "submodel.store.verify",
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


class _Package(ModuleType):
    """The package; a function that is named after a room, such as `extract`, is not hidden by the room's import."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'submodel' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


sys.modules[__name__].__class__ = _Package
