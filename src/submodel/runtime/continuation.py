"""What a model is asked to continue, what comes of it, and one continuation while it is written."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from submodel.errors import SubmodelError
from submodel.runtime.forward import end_tokens
from submodel.runtime.load import Loaded
from submodel.runtime.processors import Processor, Processors
from submodel.runtime.sampling import pick
from submodel.runtime.scoring import AlignedScores, Score
from submodel.runtime.text import TextStream

_log = logging.getLogger(__name__)


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
        processors: what moves the logits before a token is picked.
        named: tokens that it may say as if its prompt held them (see `TokenLimit`): those that a bias or a grammar
            asks for.
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
    processors: Processors = Processors()
    named: tuple[int, ...] = ()

    @property
    def sayable(self) -> tuple[int, ...]:
        """Tokens that it brings along."""
        return self.prompt + self.named


@dataclass(frozen=True)
class Continuation:
    """What a model wrote.

    Attributes:
        key, sample: of which request, the index of its seed.
        text: without special tokens, cut before the first stop string or the token that ended it.
        tokens: all that were generated, the stop string's or the last one included.
        finish: "stop", "eos", "length", or "grammar" where it could not keep to that.
    """

    key: str
    sample: int
    text: str
    tokens: tuple[int, ...]
    finish: str


@dataclass(frozen=True)
class Piece:
    """What has come of one continuation since its last piece.

    Attributes:
        sample: the index of its seed.
        text: new text, never part of a stop string or of a character.
        tokens: the ids that were generated.
        scores: of the tokens whose text has been given out by now, if the request is scored.
        finish: why it ends: "stop", "eos", "length", "grammar", "cancelled" or "error"; None while it goes on.
        likelihood: the mean log-probability of all its tokens so far, if the request is scored.
    """

    sample: int
    text: str
    tokens: tuple[int, ...]
    scores: tuple[Score, ...] = ()
    finish: str | None = None
    likelihood: float = 0.0


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
        finish: "stop", "eos", "length", or "grammar" where it could not keep to that; None while it goes on.
        more: what it may say beside the model's own tokens (see `TokenLimit`).
        picks: whether it chooses its tokens itself; else they are the most likely ones.
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
        self.more = loaded.limit.used_by(request.sayable) if loaded.limit else None
        self.generator = torch.Generator().manual_seed(request.seeds[sample])
        self._ends = end_tokens(loaded) | request.ends
        self._stream = TextStream(loaded.tokenizer, request.prompt, request.stops)
        self._processor = Processor(request.processors, request.prompt) if request.processors else None
        self.picks = bool(request.temperature or self._processor)
        self._failed = False
        self._write = write
        self._scores = None if best is None else AlignedScores(best)
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

    def pick(self, logits: torch.Tensor) -> int:
        """The next token, from logits (vocabulary,); it is `take`n with the same ones."""
        if self._processor is None:
            return self._draw(logits)
        try:
            moved = self._processor(logits)
            if self.request.processors.grammar and self.request.temperature:
                ids = moved.isfinite().nonzero()[:, 0]  # what is forbidden is not even in the draw
                token = int(ids[self._draw(moved[ids])])
            else:
                token = self._draw(moved) if self.request.temperature else int(moved.argmax())
            self._processor.take(token)
        except SubmodelError as error:  # its own trouble, not that of those who share the step
            _log.warning("a continuation ends: %s", error)
            self._failed = True
            return 0
        return token

    def _draw(self, logits: torch.Tensor) -> int:
        r = self.request
        return pick(logits, r.temperature, r.top_p, r.top_k, self.generator)

    def take(self, token: int, logits: torch.Tensor) -> None:
        """Append the next token, which was chosen from logits (vocabulary,)."""
        if self._failed:
            self.finish = "grammar"
            if self._write:
                self._write(Piece(self.sample, "", (), (), self.finish))
            return
        self.tokens.append(token)
        text, stopped = "", False
        ended = token in self._ends  # what ends it is no text
        if self._scores:
            self._scores.add(logits, token, is_text=not ended)
        if not ended:
            if self._write or self.request.stops:
                text, stopped = self._stream.put(token)
            else:
                self._stream.append(token)
        if not stopped and (ended or len(self.tokens) >= self.request.max_tokens):
            self.finish = "eos" if ended else "length"
            text += self._stream.end(token if ended else None)
        if self._stream.stopped:
            self.finish = "stop"
        self.text += text
        scores, mean = (), 0.0
        if self._scores:
            scores = self._scores.shown(self._stream.decoded, self._stream.shown, ended=self.finish is not None)
            mean = self._scores.mean
        if self._write and (text or self._scores or self.finish):
            piece = Piece(self.sample, text, tuple(self.tokens[self._written :]), scores, self.finish, mean)
            self._written = len(self.tokens)
            self._write(piece)


def next_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """Each sequence's next token, from logits (rows, vocabulary): the best one, or one that it picks."""
    greedy = logits.argmax(-1).tolist()
    return [s.pick(row) if s.picks else best for row, s, best in zip(logits, sequences, greedy, strict=True)]
