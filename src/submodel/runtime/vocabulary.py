"""A sub-model whose output head keeps a part of its base's tokens, and what it may say because a request has said it.

The tokenizer stays the base's. A token whose row the head lacks has a probability of zero, unless it is one of the
prompt: then its row is read from the checkpoint, in the precision of the head, and belongs to the head for that request
(VocabTailor, https://arxiv.org/abs/2508.15229, chooses a part by the request as well).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from submodel.runtime.packed.matrix import PackedMatrix

_REMEMBERED = 32  # prompts whose tokens are at hand: the samples of one, and its pieces


@dataclass(frozen=True, eq=False)
class MoreTokens:
    """Tokens beside those of the head that one request may say.

    Attributes:
        ids: int64 (count,), ascending.
        rows: their rows of the head; None where the whole head is there.
    """

    ids: torch.Tensor
    rows: PackedMatrix | None


More = Sequence[MoreTokens | None]
"""Of every row of a batch."""


class TokenLimit:
    """Which tokens a model may say.

    Args:
        ids: int64, ascending: those that its head keeps.
        vocabulary: how many tokens the base's head has.
        rows: ids -> these rows of the head, packed; None where the whole head is there.
    """

    def __init__(self, ids: torch.Tensor, vocabulary: int, rows: Callable[[torch.Tensor], PackedMatrix] | None = None):
        self.ids = ids
        self._dropped = torch.ones(vocabulary, dtype=torch.bool)
        self._dropped[ids] = False
        self._rows = rows
        self._used_by = lru_cache(_REMEMBERED)(self._read)

    def __deepcopy__(self, memo: object) -> "TokenLimit":
        return self

    def used_by(self, prompt: tuple[int, ...]) -> MoreTokens | None:
        """The prompt's own tokens that the head lacks; None if there are none."""
        return self._used_by(prompt)

    def _read(self, prompt: tuple[int, ...]) -> MoreTokens | None:
        used = torch.tensor(prompt).unique()
        used = used[used < len(self._dropped)]
        ids = used[self._dropped[used]]
        if not len(ids):
            return None
        return MoreTokens(ids, None if self._rows is None else self._rows(ids))

    def apply(self, logits: torch.Tensor, more: More) -> torch.Tensor:
        """Logits (rows, ..., vocabulary) with -inf at every token that its row may not say."""
        dropped = self._dropped.to(logits.device)
        limited = logits.masked_fill(dropped, float("-inf"))
        for row, one in enumerate(more):
            if one is not None:
                ids = one.ids.to(logits.device)
                limited[row, ..., ids] = logits[row, ..., ids]
        return limited
