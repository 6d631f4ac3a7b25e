"""An output head of some rows of the base's, and an embedding whose rows are read from the checkpoint when needed.

A head of its own holds the kept rows alone. One over a shared base is the base's whole matrix, of which only runs of
kept rows are multiplied. Logits are of the base's whole vocabulary; those without a row are the least number there is.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from submodel.runtime.packed.formats import FORMATS
from submodel.runtime.packed.matrix import PackedMatrix, look_up, multiply, pack, rows_of
from submodel.runtime.vocabulary import More

_RUN = 256  # rows at most, so that threads can share out the runs


class DomainHead(nn.Module):
    """`nn.Linear` to a vocabulary of which only some rows are there.

    Args:
        packed: the kept rows in the order of `ids`, or the whole head, which is shared.
        ids: int64 (kept,), ascending.
        vocabulary: rows of the whole head.
        read: ids -> other rows of the head; None of a shared one, which has them all.

    Attributes:
        runs: int64 (count, 3), of a shared head: first row, row after the last, the first one's place among `ids`.
    """

    def __init__(
        self,
        packed: PackedMatrix,
        ids: torch.Tensor,
        vocabulary: int,
        read: Callable[[torch.Tensor], PackedMatrix] | None = None,
    ):
        super().__init__()
        self.packed, self.is_shared = packed, read is None
        self.ids: torch.Tensor = ids
        self.in_features, self.out_features = packed.cols, vocabulary
        self.bias = None
        self.read = read
        self.runs: torch.Tensor | None = runs_of(ids) if self.is_shared else None
        self._more = _More()

    def __deepcopy__(self, memo: object) -> "DomainHead":
        return DomainHead(self.packed, self.ids, self.out_features, self.read)

    @contextmanager
    def beside(self, more: More) -> Iterator[None]:
        """Within it, this thread's rows of a batch have these tokens as well."""
        self._more.rows = more
        try:
            yield
        finally:
            self._more.rows = ()

    def rows(self, ids: torch.Tensor) -> PackedMatrix:
        """Other rows of the head, packed as its own are."""
        return rows_of(self.packed, ids) if self.read is None else self.read(ids)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (rows, ..., hidden) -> (rows, ..., vocabulary), in x's dtype."""
        if self.is_shared:
            return multiply(self.packed, x).to(x.dtype)  # of a prompt's last token: once a request
        logits = x.new_full((*x.shape[:-1], self.out_features), torch.finfo(x.dtype).min)
        logits[..., self.ids] = multiply(self.packed, x).to(x.dtype)
        for row, more in enumerate(self._more.rows):
            if more is not None and more.rows is not None:
                logits[row, ..., more.ids] = multiply(more.rows, x[row]).to(x.dtype)
        return logits


class MappedEmbedding(nn.Module):
    """`nn.Embedding` that reads the rows of its tokens from the checkpoint.

    Args:
        read: ids -> bfloat16 (count, hidden).
        shape: (tokens, hidden).
        form: a dense format whose rounding rows are to have, as if the whole were packed in it; None for none.
        scale: what rows are multiplied with.
    """

    def __init__(
        self,
        read: Callable[[list[int]], torch.Tensor],
        shape: Sequence[int],
        form: str | None = None,
        scale: torch.Tensor | None = None,
    ):
        super().__init__()
        self._read, self._form, self._scale = read, form, scale
        self.num_embeddings, self.embedding_dim = shape

    def __deepcopy__(self, memo: object) -> "MappedEmbedding":
        return self  # it holds no memory

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        unique, places = ids.unique(return_inverse=True)
        rows = self._read(unique.tolist()).to(torch.bfloat16)
        if self._form is not None and FORMATS[self._form].scaled:
            rows = look_up(pack(rows, None, self._form), torch.arange(len(rows)))
        found = rows[places]
        return found if self._scale is None else found * self._scale.to(found.dtype)


class _More(threading.local):
    """What `beside` says, for the thread that says it."""

    rows: More = ()


def runs_of(ids: torch.Tensor) -> torch.Tensor:
    """Ascending ids as runs of ids that follow each other, none too long: int64 (count, 3) (see `DomainHead`)."""
    starts = torch.ones(len(ids), dtype=torch.bool)
    starts[1:] = ids[1:] != ids[:-1] + 1
    places = torch.arange(len(ids))
    begun = places.where(starts, 0).cummax(0).values  # where each id's run began
    starts |= (places - begun) % _RUN == 0
    first = starts.nonzero()[:, 0]
    ends = torch.cat([first[1:], torch.tensor([len(ids)])])
    return torch.stack([ids[first], ids[first] + ends - first, first], 1).contiguous()
