"""What a manifest says of a sub-model's size in memory."""

from collections.abc import Mapping
from typing import Any


def absent_parameters(manifest: Mapping[str, Any]) -> int:
    """How many of its base's parameters a sub-model does without in memory: its embedding is read from the file row by
    row, and of the output head there are the kept rows alone. 0 where it keeps every token."""
    entry = manifest.get("vocabulary")
    if entry is None or "width" not in entry:
        return 0
    return int(entry["parameters"] - entry["head"]["kept"] * entry["width"])
