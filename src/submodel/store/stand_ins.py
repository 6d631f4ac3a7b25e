"""What stood in for named sets that were not to be had, by what a manifest says of its calibration text."""

from collections.abc import Mapping
from typing import Any


def stand_ins(calibration: Mapping[str, Any] | None) -> list[str]:
    """Which named sets of a manifest's `calibration` were not read themselves, and what stood in for them."""
    parts = (calibration.get("parts") or [calibration]) if calibration else []
    named = [part.get("set", {}) for part in parts]
    return [f"{of['name']} ({of['hub']}) was not read but {of['stand_in']}" for of in named if of.get("stand_in")]
