"""How sure the router must be: set on labelled requests of one's own, kept in the store's routing.json.

A wrong sub-model costs as much as a right one gains, and the base neither: the threshold is the one under which right
answers less wrong ones are most, the highest of several.
"""

import json
from collections.abc import Sequence

from submodel.base.files import write_json
from submodel.errors import SubmodelError
from submodel.store import Store

THRESHOLD = 0.5
_FILE = "routing.json"

Labelled = tuple[dict[str, float], str]
"""`Decision.scores` of a request, and the label that it should have got: a sub-model, or "base"."""


def best_threshold(requests: Sequence[Labelled]) -> float:
    """The threshold for these requests. Raises SubmodelError when none of them is decided by its content."""
    likeliest = [(max(scores.items(), key=lambda item: item[1]), right) for scores, right in requests if scores]
    tried = sorted({0.0, *(p for (_, p), _ in likeliest)}, reverse=True)
    if not likeliest:
        raise SubmodelError("no request that content decides: give prompts without a file, fence or header")

    def gain(threshold: float) -> int:
        decided = [(name, right) for (name, p), right in likeliest if p >= threshold and name != "base"]
        return sum(1 if name == right else -1 for name, right in decided)

    return max(tried, key=gain)


def read_threshold(store: Store) -> float:
    """The store's threshold, or THRESHOLD. Raises SubmodelError when its file is damaged."""
    file = store.path / _FILE
    if not file.is_file():
        return THRESHOLD
    try:
        return float(json.loads(file.read_text())["threshold"])
    except (ValueError, KeyError, TypeError) as error:
        raise SubmodelError(f"{file}: damaged: remove it, or calibrate again") from error


def write_threshold(store: Store, threshold: float, requests: int) -> None:
    """Keep a threshold in the store, with the number of requests that it was set on."""
    write_json(store.path / _FILE, {"threshold": threshold, "requests": requests})
