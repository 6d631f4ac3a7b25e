"""What prompts have in common is computed once: keys and values of complete pieces, kept for prompts that begin alike.

A prompt runs by itself in pieces of one length (see `model_thread`), so that what a piece computes depends on its own
tokens and on those before them, and on nothing else: a piece that is kept is, bit for bit, what would be computed
again. That is why pieces are kept and not tokens, and not what was generated: a step rounds differently from a piece.

Pieces hang on the piece before them, so that what many prompts share is there once. The least recently used go first;
one that others hang on has always been used after them, so what is still there can be reached.
"""

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field

import torch

_Key = tuple[int, tuple[int, ...]]  # the number of the piece before it (0: none), its tokens


@dataclass(eq=False)
class _Piece:
    number: int
    key: _Key
    states: list[torch.Tensor]
    size_bytes: int


@dataclass
class PrefixPath:
    """The pieces of a prompt that are in the cache, from its beginning on."""

    pieces: list[_Piece] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pieces)


class PrefixCache:
    """Keys and values of pieces of prompts, by their tokens. For one thread, and one model.

    Attributes:
        size_bytes: what is kept.
    """

    def __init__(self, most_bytes: int):
        self._most_bytes = most_bytes
        self._kept: OrderedDict[_Key, _Piece] = OrderedDict()  # the least recently used first
        self._numbers = itertools.count(1)
        self.size_bytes = 0

    def find(self, path: PrefixPath, tokens: tuple[int, ...]) -> list[torch.Tensor] | None:
        """What is kept of the piece after a path, which is then longer by it; None if it is not there."""
        piece = self._kept.get(self._key(path, tokens))
        if piece is None:
            return None
        path.pieces.append(piece)
        self._used(path)
        return piece.states

    def keep(self, path: PrefixPath, tokens: tuple[int, ...], states: list[torch.Tensor]) -> None:
        """Keep the piece after a path, which is then longer by it, unless its last piece has gone meanwhile."""
        if path.pieces and self._kept.get(path.pieces[-1].key) is not path.pieces[-1]:
            return
        key = self._key(path, tokens)
        piece = self._kept.get(key)
        if piece is None:
            size_bytes = sum(part.nbytes for part in states)
            piece = self._kept[key] = _Piece(next(self._numbers), key, states, size_bytes)
            self.size_bytes += size_bytes
        path.pieces.append(piece)
        self._used(path)
        self.limit(self._most_bytes)

    def limit(self, most_bytes: int) -> None:
        """Keep no more than so many bytes from now on."""
        self._most_bytes = most_bytes
        while self.size_bytes > max(0, most_bytes):
            _, evicted = self._kept.popitem(last=False)
            self.size_bytes -= evicted.size_bytes
            evicted.states = []  # a path may still hold the piece

    def _key(self, path: PrefixPath, tokens: tuple[int, ...]) -> _Key:
        return (path.pieces[-1].number if path.pieces else 0, tokens)

    def _used(self, path: PrefixPath) -> None:
        for piece in reversed(path.pieces):
            if piece.key in self._kept:
                self._kept.move_to_end(piece.key)
