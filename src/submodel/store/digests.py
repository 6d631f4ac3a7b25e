"""What identifies sets of masks and of new values: digests over what a manifest says of each matrix."""

import hashlib
from collections.abc import Mapping
from typing import Any


def digest_of_all(entries: Mapping[str, dict[str, Any]]) -> str:
    """SHA-256 of a set of masks, from the shape and digest of each."""
    lines = [f"{name} {entries[name]['shape']} {entries[name]['sha256']}\n" for name in sorted(entries)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_values(entries: Mapping[str, dict[str, Any]]) -> str:
    """SHA-256 of the new values of a set of matrices, from the dtype, count and digest of each."""
    values = {name: entries[name]["values"] for name in sorted(entries)}
    lines = [f"{name} {v['dtype']} [{v['count']}] {v['sha256']}\n" for name, v in values.items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
