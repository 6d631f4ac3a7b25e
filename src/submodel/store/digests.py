"""What identifies masks, new values and a vocabulary: digests over what a manifest says of each."""

import hashlib
from collections.abc import Mapping
from typing import Any

from submodel.prune.vocabulary import KINDS


def digest_of_all(entries: Mapping[str, dict[str, Any]]) -> str:
    """SHA-256 of a set of masks, from the shape and digest of each."""
    lines = [f"{name} {entries[name]['shape']} {entries[name]['sha256']}\n" for name in sorted(entries)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_values(entries: Mapping[str, dict[str, Any]]) -> str:
    """SHA-256 of the new values of a set of matrices, from the dtype, count and digest of each."""
    values = {name: entries[name]["values"] for name in sorted(entries)}
    lines = [f"{name} {v['dtype']} [{v['count']}] {v['sha256']}\n" for name, v in values.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_vocabulary(rows: int, kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 of both bitmasks, from their length and the digest of each."""
    return hashlib.sha256("".join(f"{k} [{rows}] {kinds[k]['sha256']}\n" for k in KINDS).encode()).hexdigest()
