"""A sub-model's vocabulary as a file: two bitmasks over the rows of the base's head, checked when they are read.

docs/reference/format.md specifies the file and the digests. `tests/test_vocabulary_store.py` holds it byte by byte.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from submodel.base.files import sync
from submodel.base.weights import write_stream
from submodel.errors import SubmodelError
from submodel.prune.mask import Packed, popcount
from submodel.prune.vocabulary import KINDS, Vocabulary
from submodel.store.digests import digest_of_vocabulary

FILE = "vocabulary.safetensors"


def write_vocabulary(file: Path, vocabulary: Vocabulary) -> None:
    """Write both bitmasks, to a temporary name that is then renamed."""
    partial = file.with_name(f"{file.name}.partial")
    masks = ((kind, np.ascontiguousarray(vocabulary.packed(kind))) for kind in KINDS)
    write_stream(partial, ((kind, "U8", mask.shape, mask.data) for kind, mask in masks))
    sync(partial)
    os.replace(partial, file)


def described(vocabulary: Vocabulary, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a vocabulary: how it was made, and what there is, by which it is checked."""
    kinds = {kind: {"kept": vocabulary.count(kind), "sha256": _digest(vocabulary.packed(kind))} for kind in KINDS}
    merged = {kind: {**recipe.get(kind, {}), **entry} for kind, entry in kinds.items()}
    return {
        **recipe,
        "rows": vocabulary.rows,
        "sha256": digest_of_vocabulary(vocabulary.rows, kinds),
        **merged,
    }


def read_vocabulary(file: Path, rows: int) -> Vocabulary:
    """Read both bitmasks. Raises SubmodelError when the file is damaged or of another length."""
    try:
        with safe_open(file, framework="numpy") as stored:
            masks = {kind: stored.get_tensor(kind) for kind in KINDS}
    except (SafetensorError, OSError) as error:
        raise SubmodelError(f"{file}: cut short or damaged ({error}): extract it again") from error
    for kind, mask in masks.items():
        past = np.unpackbits(mask.reshape(-1), bitorder="little")[rows:] if mask.dtype == np.uint8 else np.ones(1)
        if mask.shape != (-(-rows // 8),) or past.any():
            raise SubmodelError(f"{file}: altered: {kind} is no bitmask of {rows:,} rows: extract it again")
    return Vocabulary(rows, **masks)


def stored_vocabulary(folder: Path, manifest: Mapping[str, Any]) -> Vocabulary | None:
    """The vocabulary of a sub-model; None where it keeps every token.

    Raises SubmodelError when it is not that of the manifest.
    """
    entry = manifest.get("vocabulary")
    if entry is None:
        return None
    file = folder / FILE
    vocabulary = read_vocabulary(file, entry["rows"])
    for kind in KINDS:
        mask = vocabulary.packed(kind)
        if _digest(mask) != entry[kind]["sha256"] or popcount(mask) != entry[kind]["kept"]:
            raise SubmodelError(
                f"{file}: altered: {kind} is not that of the manifest: extract {manifest['name']} again"
            )
    return vocabulary


def _digest(mask: Packed) -> str:
    return hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
