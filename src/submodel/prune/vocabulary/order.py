"""In which order tokens go: each time the one whose absence costs the fewest pieces.

A token that is not there is spelled in pieces. What it counted for, its pieces count for from then on; it costs what
it counts for, times the pieces that it takes beyond one. All rows of a head take the same bytes, so that the least
cost is also the least a byte. Each vocabulary of the order holds all smaller ones.
"""

import heapq
from collections.abc import Iterable

import numpy as np

from submodel.base.tokenizer_model import UNIGRAM, TokenizerModel


def head_order(model: TokenizerModel, counts: np.ndarray, always: Iterable[int]) -> np.ndarray:
    """The order of tokens that a head can do without.

    Args:
        model: the tokenizer's rules.
        counts: what each token counts for, float64 (rows,).
        always: tokens that stay.

    Returns:
        Ids, int64, the one that stays longest first: all that have a row and a token, without those of `always`.
    """
    stays, counts = set(always), counts.copy()
    going = [(0.0, -token) for token in _tokens(model, len(counts)) if token not in stays]
    heapq.heapify(going)
    gone: list[int] = []
    is_gone: set[int] = set()
    while going:
        cost, token = heapq.heappop(going)
        token = -token
        pieces = model.spelled(token, lambda other, token=token: other not in is_gone and other != token)
        if (now := counts[token] * max(1, len(pieces) - 1)) > cost:  # costs only grow: one that has not is the least
            heapq.heappush(going, (now, -token))
            continue
        gone.append(token)
        is_gone.add(token)
        for piece in pieces if counts[token] else ():
            if piece < len(counts):
                counts[piece] += counts[token]
    return np.array(gone[::-1], dtype=np.int64)


def cut_order(model: TokenizerModel, counts: np.ndarray, always: Iterable[int]) -> np.ndarray:
    """The order of tokens that a tokenizer can do without, where it needs the parts of those that it keeps.

    Arguments and result are those of `head_order`; a token goes only when no kept one is made of it, so that with
    `always` and their parts every beginning of the order is closed.
    """
    if model.kind == UNIGRAM:
        return head_order(model, counts, always)
    stays, counts = model.with_parts(set(always)), counts.copy()
    candidates = [token for token in _tokens(model, len(counts)) if token not in stays]
    users = np.zeros(max([len(counts), *(token + 1 for token in stays)]), dtype=np.int64)
    for token in candidates:
        for part in model.parts(token):
            users[part] += 1
    going = [(counts[token], -token) for token in candidates if not users[token]]
    heapq.heapify(going)
    gone: list[int] = []
    while going:
        count, token = heapq.heappop(going)
        gone.append(-token)
        for part in model.parts(-token):
            users[part] -= 1
            if part < len(counts):
                counts[part] += count
            if not users[part] and part not in stays:
                heapq.heappush(going, (counts[part], -part))
    return np.array(gone[::-1], dtype=np.int64)


def _tokens(model: TokenizerModel, rows: int) -> list[int]:
    return [token for token in sorted(model.tokens) if token < rows]
