"""Choose the sub-model for a request: explicit signals, a language detector, the base's own activations."""

from submodel.router.choose import Router, open_router
from submodel.router.signals import Decision, Signals, conversation

__all__ = ["Decision", "Router", "Signals", "conversation", "open_router"]
