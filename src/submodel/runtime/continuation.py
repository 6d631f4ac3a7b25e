"""What a model is asked to continue, what comes of it, and one continuation while it is written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from submodel.runtime.forward import end_tokens
from submodel.runtime.load import Loaded
from submodel.runtime.sampling import pick
from submodel.runtime.text import TextStream


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        key: comes back with its continuations.
        prompt: token ids, at least one.
        max_tokens: new tokens at most.
        stops: the text ends before the first of them.
        seeds: one continuation each; they share the prefill.
        temperature: 0 is greedy.
        top_p, top_k: nucleus and number of tokens to sample from; 1 and 0 are off.
        ends: tokens that end a continuation beside the model's own.
    """

    key: str
    prompt: tuple[int, ...]
    max_tokens: int
    stops: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Continuation:
    """What a model wrote.

    Attributes:
        key, sample: of which request, the index of its seed.
        text: without special tokens, cut before the first stop string or the token that ended it.
        tokens: all that were generated, the stop string's or the last one included.
        finish: "stop", "eos" or "length".
    """

    key: str
    sample: int
    text: str
    tokens: tuple[int, ...]
    finish: str


@dataclass(frozen=True)
class Score:
    """Natural logarithms of a token's probability and of the best tokens', before temperature.

    Attributes:
        logprob: of the token that was taken.
        best: (token, logprob), the most likely first.
    """

    logprob: float
    best: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What has come of one continuation since its last piece.

    Attributes:
        sample: the index of its seed.
        text: new text, never part of a stop string or of a character.
        tokens: the ids that were generated.
        scores: one a token, if the request is scored.
        finish: why it ends: "stop", "eos", "length", "cancelled" or "error"; None while it goes on.
    """

    sample: int
    text: str
    tokens: tuple[int, ...]
    scores: tuple[Score, ...] = ()
    finish: str | None = None


class Sequence:
    """One continuation of a request while it is written, with a generator of its own.

    Args:
        loaded: the model that writes it.
        request, sample: of which request, the index of its seed.
        write: gets the text piece by piece; without it the text is decoded at the end, or as far as stop strings need.
        best: how many most likely tokens to score beside each one that is taken; None for no scores.

    Attributes:
        tokens: generated so far.
        text: written so far.
        finish: "stop", "eos" or "length"; None while it goes on.
        more: what it may say beside the model's own tokens (see `TokenLimit`).
    """

    def __init__(
        self,
        loaded: Loaded,
        request: Request,
        sample: int = 0,
        write: Callable[[Piece], Any] | None = None,
        best: int | None = None,
    ):
        self.request, self.sample = request, sample
        self.tokens: list[int] = []
        self.text = ""
        self.finish: str | None = None
        self.more = loaded.limit.used_by(request.prompt) if loaded.limit else None
        self.generator = torch.Generator().manual_seed(request.seeds[sample])
        self._ends = end_tokens(loaded) | request.ends
        self._stream = TextStream(loaded.tokenizer, request.prompt, request.stops)
        self._write, self._best = write, best
        self._scores: list[Score] = []
        self._written = 0  # tokens that `write` has had

    @property
    def continuation(self) -> Continuation:
        """What was written, once it has ended."""
        assert self.finish is not None
        return Continuation(self.request.key, self.sample, self.text, tuple(self.tokens), self.finish)

    @property
    def longest(self) -> int:
        """Tokens that it may grow to, its prompt included."""
        return len(self.request.prompt) + self.request.max_tokens

    def take(self, token: int, logits: torch.Tensor) -> None:
        """Append the next token, which was chosen from logits (vocabulary,)."""
        self.tokens.append(token)
        if self._best is not None:
            self._scores.append(score(logits, token, self._best))
        text, stopped = "", False
        ended = token in self._ends  # what ends it is no text
        if not ended:
            if self._write or self.request.stops:
                text, stopped = self._stream.put(token)
            else:
                self._stream.append(token)
        if stopped:
            self.finish = "stop"
        elif ended or len(self.tokens) >= self.request.max_tokens:
            self.finish = "eos" if ended else "length"
            text += self._stream.end()
        self.text += text
        if self._write and (text or self._scores or self.finish):
            piece = Piece(self.sample, text, tuple(self.tokens[self._written :]), tuple(self._scores), self.finish)
            self._written, self._scores = len(self.tokens), []
            self._write(piece)


def next_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """Each sequence's next token, from logits (rows, vocabulary): the best one, or one that is drawn."""
    greedy = logits.argmax(-1).tolist()
    return [
        pick(row, r.temperature, r.top_p, r.top_k, s.generator) if (r := s.request).temperature else best
        for row, s, best in zip(logits, sequences, greedy, strict=True)
    ]


def score(logits: torch.Tensor, token: int, best: int) -> Score:
    """Of a token that was taken from logits (vocabulary,), with the `best` most likely ones."""
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(min(best, len(logprobs)))
    return Score(float(logprobs[token]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
