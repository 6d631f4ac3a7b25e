"""What a smaller vocabulary loses on text, in nats: exactly, for many sizes in one run.

**Definition.** A window is tokens x_1 .. x_n of the base's tokenizer. The model has read x_1 .. x_{t-1} and says x_t
with the kept tokens K alone: the softmax is over the rows of K. A token of K is said as it is and costs -log p_K(x_t).
Any other is said in its pieces s_1 .. s_m, all of K (`TokenizerModel.spelled`), and costs the sum of
-log p_K(s_j | x_1 .. x_{t-1} s_1 .. s_{j-1}). What follows has read x_t itself, as a text that is given has it. Where
tokens are **said again**, K has x_1 .. x_{t-1} as well: an engine that adds the rows of what a request has used.

The text has one spelling here and could have others, so that this is an upper bound of what the vocabulary loses; the
loss of a text that a model has written in pieces itself, and goes on from, is not measured.

`window_losses` runs a window once, from its logits takes what every size keeps of the probability, and runs the later
pieces of each spelling from the window's keys and values. `plain_loss` is its slow twin: the definition, word by word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_utils import PreTrainedModel

from submodel.base.tokenizer_model import TokenizerModel

_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache
_LONGEST = 256  # pieces of a token; the longest tokens of known tokenizers have fewer bytes


@dataclass(frozen=True)
class Ladder:
    """Vocabularies of growing size, each of which holds the smaller ones.

    Attributes:
        rank: of each row of the head, int64 (rows,): a size keeps the ranks below it.
        sizes: ascending.
        said_again: tokens that a window has used are kept from then on.
    """

    rank: np.ndarray
    sizes: tuple[int, ...]
    said_again: bool

    @cached_property
    def level(self) -> np.ndarray:
        """The first of `sizes` that keeps a row, by its place; their number where none does."""
        return np.searchsorted(np.array(self.sizes), self.rank, side="right")

    def keeps(self, size: int, token: int) -> bool:
        """Whether the size at a place keeps a token."""
        return token < len(self.rank) and bool(self.level[token] <= size)


@dataclass(frozen=True)
class WindowLoss:
    """Nats that the tokens of one window cost but the first.

    Attributes:
        full: with all rows.
        kept: with those of each ladder's sizes, float64 (sizes,), a ladder each.
        outside: how many tokens had to be spelled, int64 (sizes,), a ladder each.
    """

    full: float
    kept: tuple[np.ndarray, ...]
    outside: tuple[np.ndarray, ...]


def window_losses(
    model: PreTrainedModel, ids: torch.Tensor, rules: TokenizerModel, ladders: Sequence[Ladder]
) -> WindowLoss:
    """The losses of one window, int64 (tokens,), for every size of every ladder."""
    tokens = ids.tolist()
    spellings = [_spellings(tokens, rules, ladder) for ladder in ladders]
    branches = sorted({branch for by_branch in spellings for branch in by_branch}, reverse=True)
    seen = _Seen(tokens)
    cache = _new_cache(model, len(tokens))
    options: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    logits = model(input_ids=ids[None].to(model.device), **options).logits[0, :-1]  # (tokens - 1, rows)

    # what every token costs as it is, and the first piece of every spelling
    targets = ids[1:].to(logits.device)
    plain, firsts = np.zeros(len(targets)), dict.fromkeys(branches, 0.0)
    shares = [np.zeros((len(targets), len(ladder.sizes))) for ladder in ladders]
    by_row: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for branch in branches:
        by_row.setdefault(branch[0] - 1, []).append(branch)
    for at in range(0, len(logits), _LOGIT_ROWS):
        chance = logits[at : at + _LOGIT_ROWS].float().log_softmax(-1)
        rows = np.arange(at, at + len(chance))
        plain[rows] = chance.gather(1, targets[rows, None])[:, 0].cpu().numpy()
        for share, ladder in zip(shares, ladders, strict=True):
            share[rows] = _log_kept(chance, ladder, seen, rows + 1)
        for row in rows.tolist():
            for branch in by_row.get(row, ()):
                firsts[branch] = float(chance[row - at, branch[1][0]])
    del logits

    result: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for share, ladder in zip(shares, ladders, strict=True):
        said = _said(tokens, ladder)
        result.append(np.where(said, share - plain[:, None], 0.0).sum(axis=0))
        counts.append((~said).sum(axis=0))
    later = _Later(model, ids, cache)
    for branch in branches:
        at, pieces = branch
        chance = later.run(at, pieces) if len(pieces) > 1 else torch.empty(0, len(ladders[0].rank))
        following = sum(float(row[piece]) for row, piece in zip(chance, pieces[1:], strict=True))
        for by_branch, share, ladder, total in zip(spellings, shares, ladders, result, strict=True):
            if sizes := by_branch.get(branch):
                kept = _log_kept(chance, ladder, seen, np.full(len(chance), at)).sum(axis=0)
                for size in sizes:
                    total[size] += share[at - 1, size] + kept[size] - firsts[branch] - following
    return WindowLoss(float(-plain.sum()), tuple(result), tuple(counts))


def plain_loss(
    model: PreTrainedModel, ids: torch.Tensor, rules: TokenizerModel, ladder: Ladder, size: int
) -> tuple[float, int]:
    """The slow twin: nats of a window with one size of a ladder, by its place, and how many tokens were spelled."""
    tokens, total, spelled = ids.tolist(), 0.0, 0
    for at in range(1, len(tokens)):
        kept = torch.from_numpy(ladder.level <= size)
        if ladder.said_again:
            kept[tokens[:at]] = True
        pieces = rules.spelled(tokens[at], lambda token, kept=kept: token < len(kept) and bool(kept[token]))
        spelled += pieces != (tokens[at],)
        for number, piece in enumerate(pieces):
            read = torch.tensor([[*tokens[:at], *pieces[:number]]], device=model.device)
            logits = model(input_ids=read, use_cache=False).logits[0, -1].float().cpu()
            total -= float(logits.masked_fill(~kept, -torch.inf).log_softmax(-1)[piece])
    return total, spelled


def outside(ids: np.ndarray, ladder: Ladder) -> np.ndarray:
    """Which share of the tokens of windows (windows, tokens) each size has to spell; needs no model."""
    return np.mean([(~_said(window.tolist(), ladder)).mean(axis=0) for window in ids], axis=0)


class _Seen:
    """The distinct tokens of a window, and where each stands first."""

    def __init__(self, tokens: list[int]):
        self.tokens, self.first = np.unique(tokens, return_index=True)


class _Later:
    """Runs pieces after the beginning of a window; the beginnings must come in descending order of their length."""

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache | None):
        self._model, self._ids, self._cache, self._length = model, ids, cache, len(ids)

    def run(self, at: int, pieces: tuple[int, ...]) -> torch.Tensor:
        """Log-probabilities after x_1 .. x_{at} and all pieces but the last, float32 (pieces - 1, rows)."""
        read = torch.tensor(pieces[:-1])
        if self._cache is None:
            together = torch.cat([self._ids[:at], read])[None].to(self._model.device)
            logits = self._model(input_ids=together, use_cache=False).logits[0, at:]
            return logits.float().log_softmax(-1)
        if at < self._length:
            self._cache.crop(at - self._length)
            self._length = at
        given = read[None].to(self._model.device)
        logits = self._model(input_ids=given, past_key_values=self._cache, use_cache=True).logits[0]
        self._cache.crop(-len(read))
        return logits.float().log_softmax(-1)


def _new_cache(model: PreTrainedModel, tokens: int) -> DynamicCache | None:
    """An empty cache whose end can be taken off again; None for a family that keeps another state."""
    text = model.config.get_text_config()
    nearest = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    cache = DynamicCache(config=model.config)
    croppable = all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    return cache if croppable and (nearest is None or nearest > tokens + _LONGEST) else None


def _spellings(
    tokens: list[int], rules: TokenizerModel, ladder: Ladder
) -> Mapping[tuple[int, tuple[int, ...]], list[int]]:
    """(place of a token in the window, its pieces) -> the sizes that say it so."""
    spellings: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    said = _said(tokens, ladder)
    for row, size in zip(*np.nonzero(~said), strict=True):
        again = frozenset(tokens[: row + 1]) if ladder.said_again else frozenset()
        pieces = rules.spelled(
            tokens[row + 1], lambda token, size=size, again=again: token in again or ladder.keeps(size, token)
        )
        spellings.setdefault((int(row) + 1, pieces), []).append(int(size))
    return spellings


def _said(tokens: list[int], ladder: Ladder) -> np.ndarray:
    """Which tokens each size says as they are, bool (tokens - 1, sizes); not the first, which is not said."""
    said = ladder.level[tokens[1:]][:, None] <= np.arange(len(ladder.sizes))
    if ladder.said_again:
        _, first = np.unique(tokens, return_index=True)
        said[np.setdiff1d(np.arange(1, len(tokens)), first) - 1] = True
    return said


def _log_kept(chance: torch.Tensor, ladder: Ladder, seen: _Seen, lengths: np.ndarray) -> np.ndarray:
    """The logarithm of what each size keeps of the probability, float64 (predictions, sizes).

    Args:
        chance: log-probabilities, float32 (predictions, rows).
        ladder: the sizes.
        seen: the window's tokens.
        lengths: how many of them each prediction has read.
    """
    chance = chance.double().exp_()  # sums of a hundred thousand
    count = len(ladder.sizes)
    level = torch.from_numpy(ladder.level).to(chance.device)
    kept = torch.zeros(len(chance), count + 1, dtype=torch.float64, device=chance.device).index_add_(1, level, chance)
    total = kept[:, :count].cumsum(1).cpu().numpy()
    if ladder.said_again:
        added = chance[:, torch.from_numpy(seen.tokens).to(chance.device)].cpu().numpy()
        added = added * (seen.first[None] < lengths[:, None])
        total += added @ (ladder.level[seen.tokens][:, None] > np.arange(count)).astype(np.float64)
    return np.log(total)
