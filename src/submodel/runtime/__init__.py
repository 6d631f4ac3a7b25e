"""Run models: open any model reference, generate text, one prompt or many."""

from submodel.runtime.batch import generate_batch
from submodel.runtime.continuation import Continuation, Request
from submodel.runtime.generate import generate
from submodel.runtime.load import Loaded, load
from submodel.runtime.packed.shared import SharedBase

__all__ = ["Continuation", "Loaded", "Request", "SharedBase", "generate", "generate_batch", "load"]
