"""Run models: open any model reference, generate text, one prompt or many."""

from typing import TYPE_CHECKING

from submodel.lazy import load_when_used

if TYPE_CHECKING:
    from submodel.runtime.batch import generate_batch
    from submodel.runtime.continuation import Continuation, Request
    from submodel.runtime.generate import generate
    from submodel.runtime.load import Loaded, load
    from submodel.runtime.packed.shared import SharedBase

__all__ = ["Continuation", "Loaded", "Request", "SharedBase", "generate", "generate_batch", "load"]

# sizes in packed formats are told without loading what runs a model
load_when_used(
    __name__,
    {
        "Continuation": "submodel.runtime.continuation",
        "Loaded": "submodel.runtime.load",
        "Request": "submodel.runtime.continuation",
        "SharedBase": "submodel.runtime.packed.shared",
        "generate": "submodel.runtime.generate",
        "generate_batch": "submodel.runtime.batch",
        "load": "submodel.runtime.load",
    },
)
