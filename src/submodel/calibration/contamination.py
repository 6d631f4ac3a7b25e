"""Does calibration text hold what is evaluated on? Overlaps of 13 words in a row, as in Brown et al. 2020, appendix C
(https://arxiv.org/abs/2005.14165): words are lower-cased runs of letters and digits, and a run of words that more than
ten problems of one set share is its boilerplate and counts for nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from submodel.calibration.documents import Document

LENGTH = 13  # words
_COMMON = 10  # problems
_WORD = re.compile(r"[^\W_]+")
_BASE = 0x9E3779B97F4A7C15  # odd, so that every word of a run bears on its hash
# columns of test programs and of what a problem was made from: no text that a model is asked to continue
_NOT_SHOWN = ("test", "doctest", "original", "stop_tokens", "challenge_test")


def problem_text(row: Mapping[str, Any]) -> str:
    """What of a task's row a model is shown or asked for."""
    return "\n".join(_strings([value for key, value in row.items() if not key.startswith(_NOT_SHOWN)]))


class Problems:
    """The problems of evaluation sets, their runs hashed once for any number of domains.

    Args:
        sets: set -> the text of each of its problems.
    """

    def __init__(self, sets: Mapping[str, Sequence[str]]):
        self._known: dict[str, int] = {}
        self._runs = {name: [_runs(problem, self._known) for problem in problems] for name, problems in sets.items()}

    def overlaps(self, documents: Sequence[Document]) -> dict[str, Any]:
        """Compare calibration documents, all that take part, with the problems.

        Returns:
            For the manifest: `words`, the length of a run; `rows`, how many documents share one with any set; `sets`:
            set -> `problems` and how many of them are `overlapping`.
        """
        runs = [_runs(document.text, self._known) for document in documents]
        all_runs = _union(runs)
        shared: list[np.ndarray] = []
        sets: dict[str, dict[str, int]] = {}
        for name, problems in self._runs.items():
            every, uses = np.unique(np.concatenate([*problems, all_runs[:0]]), return_counts=True)
            shared.append(np.intersect1d(every[uses <= _COMMON], all_runs, assume_unique=True))
            sets[name] = {"problems": len(problems), "overlapping": _hit(problems, shared[-1])}
        return {"words": LENGTH, "rows": _hit(runs, _union(shared)), "sets": sets}


def _hit(texts: Sequence[np.ndarray], runs: np.ndarray) -> int:
    """How many texts have one of the runs."""
    return sum(bool(np.isin(text, runs).any()) for text in texts) if len(runs) else 0


def _union(texts: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([*texts, np.empty(0, dtype=np.uint64)]))


def _runs(text: str, known: dict[str, int]) -> np.ndarray:
    """The hashes of all runs of 13 words, uint64 (runs,), each once; `known` numbers the words as they come."""
    words = np.array([known.setdefault(word, len(known) + 1) for word in _WORD.findall(text.lower())], dtype=np.uint64)
    count = len(words) - LENGTH + 1
    if count < 1:
        return np.empty(0, dtype=np.uint64)
    words = words * np.uint64(0xD6E8FEB86659FD93)
    words ^= words >> np.uint64(32)
    hashes = np.zeros(count, dtype=np.uint64)
    for at in range(LENGTH):
        hashes = hashes * np.uint64(_BASE) + words[at : at + count]
    return np.unique(hashes)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
