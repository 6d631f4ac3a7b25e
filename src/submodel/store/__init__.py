"""A store: one base and many sub-models of it on disk."""

from submodel.prune.mask import Mask, Masks
from submodel.prune.vocabulary import Vocabulary
from submodel.store.format import (
    FORMAT,
    FORMAT_REWRITTEN,
    FORMAT_VOCABULARY,
    OWN_KEYS,
    Store,
    check_base,
    check_name,
    check_names,
    digest_of_submodel,
    locked,
    open_or_create,
    split_reference,
)

__all__ = [
    "FORMAT",
    "FORMAT_REWRITTEN",
    "FORMAT_VOCABULARY",
    "OWN_KEYS",
    "Mask",
    "Masks",
    "Store",
    "Vocabulary",
    "check_base",
    "check_name",
    "check_names",
    "digest_of_submodel",
    "locked",
    "open_or_create",
    "split_reference",
]
