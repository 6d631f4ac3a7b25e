"""A vocabulary: which rows of the base's output head a sub-model keeps, one bit a row.

There are two. `head` is for an engine that keeps the base's tokenizer and embedding and makes the head alone smaller.
`cut` is for a tokenizer, embedding and head that are cut alike: it holds more, since a text is then cut into kept
tokens on its way in as well, and BPE needs the parts of its tokens to make them.
"""

from dataclasses import dataclass

import numpy as np

from submodel.prune.mask import Packed, pack_bits, popcount, unpack_bits

KINDS = ("cut", "head")


@dataclass(frozen=True)
class Vocabulary:
    """The rows that a sub-model keeps.

    Attributes:
        rows: how many rows the base's head has, those without a token included.
        head, cut: a bit for each row, uint8 (ceil(rows / 8),): row i is bit i % 8 of byte i // 8.
    """

    rows: int
    head: Packed
    cut: Packed

    @classmethod
    def of(cls, rows: int, head: np.ndarray, cut: np.ndarray) -> "Vocabulary":
        """From token ids."""
        kept = np.zeros((2, rows), dtype=bool)
        kept[0, head], kept[1, cut] = True, True
        return cls(rows, *pack_bits(kept))

    def packed(self, kind: str) -> Packed:
        """The bits of one of KINDS."""
        return self.head if kind == "head" else self.cut

    def ids(self, kind: str = "head") -> np.ndarray:
        """The kept rows of one of KINDS, int64, ascending: the token ids of the base."""
        return np.flatnonzero(unpack_bits(self.packed(kind), self.rows))

    def count(self, kind: str = "head") -> int:
        """How many rows one of KINDS keeps."""
        return popcount(self.packed(kind))
