"""Run models: open any model reference, generate text."""

from submodel.runtime.generate import generate
from submodel.runtime.load import Loaded, load

__all__ = ["Loaded", "generate", "load"]
