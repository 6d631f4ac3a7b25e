"""Between text and tokens: prompts as a base's tokenizer writes them, and text as its tokens come."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from submodel.runtime.infill import Infill

_CONTEXT = 8  # prompt tokens decoded with the text: some tokenizers write a piece's space by what stands before it
_UNFINISHED = 8  # tokens that a character can be waited for; bytes that make none by then are shown as they are


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens.

    Attributes:
        tokens: its ids.
        ends: tokens that end its continuation beside the model's own.
    """

    tokens: tuple[int, ...]
    ends: frozenset[int] = frozenset()


class Prompts:
    """Writes prompts for one tokenizer: of chats where it `has_template`, with a gap where it `has_infill`."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    @cached_property
    def _infill(self) -> Infill:
        return Infill(self._tokenizer)

    @property
    def has_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    @property
    def has_infill(self) -> bool:
        return bool(self._infill)

    def chat(self, turns: Sequence[tuple[str, str]]) -> Prompt:
        """(role, text) of a conversation, ready for the assistant's answer. Raises what its template raises."""
        messages = [{"role": role, "content": text} for role, text in turns]
        ids = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        return Prompt(tuple(ids))

    def text(self, prompt: str) -> Prompt:
        """A text to continue; one that brings its own fill-in-the-middle tokens ends where a middle ends."""
        parts = self._infill.split(prompt)
        if parts and self._infill.spaced:  # such a tokenizer would put spaces where the parts begin
            head, before, after, tail = parts
            return Prompt(tuple(self._infill.around(before, after, head, tail)), self._infill.ends)
        return Prompt(tuple(self._tokenizer(prompt)["input_ids"]), self._infill.ends if parts else frozenset())

    def tokens(self, ids: Sequence[int]) -> Prompt:
        """Token ids as they are."""
        return Prompt(tuple(ids), self._infill.ends if self._infill.is_in(list(ids)) else frozenset())

    def infill(self, before: str, after: str) -> Prompt:
        """The middle between two texts."""
        return Prompt(tuple(self._infill.around(before, after)), self._infill.ends)

    def split(self, prompt: str) -> tuple[str, str | None]:
        """(before, after) of a prompt that was written with the base's own tokens; (prompt, None) of any other."""
        parts = self._infill.split(prompt)
        return (parts[1], parts[2]) if parts else (prompt, None)


class TextStream:
    """One continuation's text: complete characters only, cut before a stop string, no part of which is ever shown.

    Args:
        tokenizer: of the model.
        prompt: the tokens that it continues.
        stops: the text ends before the first of them.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens = list(prompt[-_CONTEXT:])
        self._start, self._read = 0, len(self._tokens)  # the text up to `read` is out; it is decoded from `start` on
        self._held = ""  # may be the beginning of a stop string

    def append(self, token: int) -> None:
        """A token whose text nobody waits for: it comes with what is asked for next."""
        self._tokens.append(token)

    def put(self, token: int) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has ended it."""
        self._tokens.append(token)
        return self._release(self._decoded(last=False))

    def end(self) -> str:
        """What was held back, when no token follows."""
        text, stopped = self._release(self._decoded(last=True))
        held, self._held = self._held, ""
        return text if stopped else text + held

    def _decoded(self, last: bool) -> str:
        before, text = (
            self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for tokens in (self._tokens[self._start : self._read], self._tokens[self._start :])
        )
        complete = not text.endswith("\ufffd") or len(self._tokens) - self._read > _UNFINISHED
        if len(text) <= len(before) or not (complete or last):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return text[len(before) :]

    def _release(self, text: str) -> tuple[str, bool]:
        """What of the text held so far is before any stop string, and whether one is in it."""
        held = self._held + text
        stops = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if stops:
            self._held = ""
            return held[: min(stops)], True
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
