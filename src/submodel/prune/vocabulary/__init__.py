"""Which tokens of its base a sub-model keeps: what must stay, in which order the others go, and what that loses."""

from submodel.prune.vocabulary.vocabulary import KINDS, Vocabulary

__all__ = ["KINDS", "Vocabulary"]
