"""One continuation while it is written: what was asked for, its tokens so far, their text, when it ends."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from submodel.runtime.sample import pick

_CONTEXT = 8  # prompt tokens decoded with the text: some tokenizers write a piece's space by what stands before it


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


@dataclass
class Sequence:
    """One continuation of a request, with a generator of its own."""

    request: Request
    sample: int
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)


class Text:
    """Tokens -> text, and whether a stop string has come."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def of(self, sequence: Sequence, last: int | None = None) -> str:
        """The text of the last new tokens (of all by default) as it reads after what stands before them."""
        tokens = sequence.tokens
        before = [*sequence.request.prompt[-_CONTEXT:], *tokens]
        cut = len(before) - (len(tokens) if last is None else min(last, len(tokens)))
        head = before[max(0, cut - _CONTEXT) : cut]
        whole, start = self._decode([*head, *before[cut:]]), self._decode(head)
        return whole[len(start) :] if whole.startswith(start) else self._decode(before[cut:])

    def stopped(self, sequence: Sequence) -> str | None:
        """The text before the first stop string, or None while there is none."""
        stops = sequence.request.stops
        if not stops:
            return None
        # a token holds at least one byte, and a character at most four
        tail = self.of(sequence, 4 * max(map(len, stops)))
        if not any(stop in tail for stop in stops):
            return None
        text = self.of(sequence)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else None


def next_tokens(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """Each sequence's next token, from logits (rows, vocabulary): the best one, or one that is drawn."""
    greedy = logits.argmax(-1).tolist()
    return [
        pick(row, r.temperature, r.top_p, r.top_k, s.generator) if (r := s.request).temperature else best
        for row, s, best in zip(logits, sequences, greedy, strict=True)
    ]


def finish(sequence: Sequence, text: Text, ends: frozenset[int]) -> Continuation | None:
    """The continuation, if its last token ended it."""
    request = sequence.request
    if sequence.tokens[-1] in ends or sequence.tokens[-1] in request.ends:
        written, reason = text.of(replace(sequence, tokens=sequence.tokens[:-1])), "eos"
    elif (before := text.stopped(sequence)) is not None:
        written, reason = before, "stop"
    elif len(sequence.tokens) >= request.max_tokens:
        written, reason = text.of(sequence), "length"
    else:
        return None
    return Continuation(request.key, sequence.sample, written, tuple(sequence.tokens), reason)
