"""How often text uses each token: documents in a fixed order, a few at a time, up to a bound."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from submodel.calibration.documents import Document

MOST_TOKENS = 8_000_000  # of one part of a domain
WINDOW = 512  # tokens of a document that count as one request
_TOGETHER = 64  # documents that the tokenizer gets at once
_SEED = 0  # of the order, where there is more text than the bound


@dataclass(frozen=True)
class Counts:
    """What was counted of one text.

    Attributes:
        uses: how often each token is there, int64 (rows,).
        windows: in how many windows each token is there, int64 (rows,); a window is 512 tokens of one document.
        documents: the places of those that were read, ascending.
        above: how many uses are of tokens that the head has no row for.
    """

    uses: np.ndarray
    windows: np.ndarray
    documents: tuple[int, ...]
    above: int

    @property
    def tokens(self) -> int:
        """How many tokens were counted."""
        return int(self.uses.sum())


def count(
    documents: Sequence[Document],
    tokenizer: Any,
    rows: int,
    most: int = MOST_TOKENS,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> Counts:
    """Count the tokens of documents.

    Args:
        documents: the text; where it has more tokens than `most`, documents by chance, the same ones every time.
        tokenizer: of the base.
        rows: of the head.
        most: tokens to read, about.
        progress: told how many tokens have been counted.
    """
    uses, windows = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    read: list[int] = []
    tokens = above = 0
    for places in _batches(len(documents)):
        if tokens >= most:
            break
        texts = [documents[place].text for place in places]
        read += places
        for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            tokens += len(ids)
            known = np.array([token for token in ids if token < rows], dtype=np.int64)
            above += len(ids) - len(known)
            there, times = np.unique(known, return_counts=True)
            uses[there] += times
            for at in range(0, len(known), WINDOW):
                windows[np.unique(known[at : at + WINDOW])] += 1
        progress(tokens)
    return Counts(uses, windows, tuple(sorted(read)), above)


def _batches(count: int) -> Iterator[list[int]]:
    order = np.random.default_rng(_SEED).permutation(count).tolist()
    yield from (order[at : at + _TOGETHER] for at in range(0, count, _TOGETHER))
