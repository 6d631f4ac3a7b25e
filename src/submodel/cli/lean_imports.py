"""Import transformers without what one process with one model never uses: half of its start is spent there.

transformers asks at import which libraries there are, and loads torch's distributed tensors (and with them sympy),
scipy, accelerate and flexible attention where it finds them; decorators of torch's compiler load all of that too. Here
transformers is told that they are absent, as they are on many machines, and the decorators, which mark functions for a
compiler that does not run, do nothing. This is for the command line's own process: a program that imports submodel
finds transformers as it is.
"""

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

_UNUSED = (
    "is_accelerate_available",
    "is_scipy_available",
    "is_torch_distributed_available",
    "is_torch_flex_attn_available",
)
_COMPILER = "torch._dynamo"
_TRACING = f"{_COMPILER}._trace_wrapped_higher_order_op"


def import_transformers() -> None:
    """Import transformers' models and generation; does nothing where they are imported already."""
    if "transformers.modeling_utils" in sys.modules or _COMPILER in sys.modules:
        return
    decorators: dict[str, Any] = dict.fromkeys(("allow_in_graph", "assume_constant_result", "disable"), _unmarked)
    sys.modules[_COMPILER] = _Placeholder(_COMPILER, decorators)
    sys.modules[_TRACING] = _Placeholder(_TRACING, {"TransformGetItemToIndex": _transform_get_item_to_index})

    import transformers.utils
    from transformers.utils import import_utils

    for name in _UNUSED:
        if hasattr(import_utils, name):
            setattr(import_utils, name, _absent)
            setattr(transformers.utils, name, _absent)
    importlib.import_module("transformers.modeling_utils")
    importlib.import_module("transformers.generation.utils")


class _Placeholder(ModuleType):
    """Stands for a module of the compiler; any name of it but the replaced ones loads the real one."""

    def __init__(self, name: str, replaced: Mapping[str, Any]):
        super().__init__(name)
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # as of a plain module: the import itself asks for __path__
        _load_compiler()
        return getattr(importlib.import_module(self.__name__), name)


def _absent(*_: Any, **__: Any) -> bool:
    return False


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with or without arguments, that leaves its function as it is."""
    return function if callable(function) else lambda decorated: decorated


def _transform_get_item_to_index() -> Any:
    """What masks of packed sequences are traced under, loaded when one is built."""
    _load_compiler()
    return importlib.import_module(_TRACING).TransformGetItemToIndex()


def _load_compiler() -> None:
    """Let the compiler's own modules take the place of what stands for them."""
    for module in (_COMPILER, _TRACING):
        if isinstance(sys.modules.get(module), _Placeholder):
            del sys.modules[module]
