"""What a manifest says of its calibration text: what stood in for a named set, what was left out of a file."""

from collections.abc import Mapping
from typing import Any


def stand_ins(calibration: Mapping[str, Any] | None) -> list[str]:
    """Which named sets of a manifest's `calibration` were not read themselves, and what stood in for them."""
    named = [part.get("set", {}) for part in _parts(calibration)]
    return [f"{of['name']} ({of['hub']}) was not read but {of['stand_in']}" for of in named if of.get("stand_in")]


def left_out(calibration: Mapping[str, Any] | None) -> list[str]:
    """How many rows or files of each text were left out and why; no line of a text that was read whole."""
    lines: list[str] = []
    for part in _parts(calibration):
        counts = part.get("left_out") or part.get("repository", {}).get("left_out")
        if counts:
            reasons = sorted(counts.items(), key=lambda item: -item[1])
            lines.append(f"left out of {part['path']}: {', '.join(f'{n:,} {reason}' for reason, n in reasons)}")
    return lines


def _parts(calibration: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Itself where it is no mixture, none where there is none."""
    return list(calibration.get("parts") or [calibration]) if calibration else []
