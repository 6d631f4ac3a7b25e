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
        return self.conversation([{"role": role, "content": text} for role, text in turns])

    def conversation(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> Prompt:
        """Messages as the template takes them, tools it may offer. Raises what its template raises."""
        ids = self._tokenizer.apply_chat_template(
            messages, tools=tools or None, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return Prompt(tuple(ids))

    def rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """What the template makes of messages, as text. Raises what it raises."""
        return self._tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False)

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

    Special tokens are no text, but a stop string that names one ends the text there.

    Args:
        tokenizer: of the model.
        prompt: the tokens that it continues.
        stops: the text ends before the first of them.

    Attributes:
        decoded: characters that the tokens have made.
        shown: of these, what has been given out.
        stopped: whether a stop string has ended it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens = list(prompt[-_CONTEXT:])
        self._start, self._read = 0, len(self._tokens)  # the text up to `read` is out; it is decoded from `start` on
        self._held = ""  # may be the beginning of a stop string; special tokens as they are written
        self._hidden: list[tuple[int, int]] = []  # where in what is held special tokens begin and end
        self._marks = _marks(tokenizer, stops) if stops else {}
        self.decoded = self.shown = 0
        self.stopped = False

    def append(self, token: int) -> None:
        """A token whose text nobody waits for: it comes with what is asked for next."""
        self._tokens.append(token)

    def put(self, token: int) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has ended it."""
        self._tokens.append(token)
        self._hold(self._decoded(last=False))
        if token in self._marks:
            self._mark(self._marks[token])
        text = self._release()
        return text, self.stopped

    def end(self, token: int | None = None) -> str:
        """What was held back, when no token follows but one that ends the text."""
        self._hold(self._decoded(last=True))
        if token in self._marks:
            self._mark(self._marks[token])
        text = self._release()
        return text if self.stopped else text + self._show(len(self._held))

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

    def _hold(self, text: str) -> None:
        self._held += text
        self.decoded += len(text)

    def _mark(self, special: str) -> None:
        self._hidden.append((len(self._held), len(self._held) + len(special)))
        self._held += special

    def _release(self) -> str:
        """What of the text held so far is before any stop string, and before what may become one."""
        stops = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(stops)
        if stops:
            return self._show(min(stops))
        return self._show(len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0))

    def _show(self, count: int) -> str:
        """So many characters of what is held, without special tokens; the rest stays."""
        text, self._held = self._held[:count], self._held[count:]
        if self._hidden:
            for start, end in reversed(self._hidden):
                text = text[:start] + text[end:]
            self._hidden = [(max(0, a - count), b - count) for a, b in self._hidden if b > count]
        self.shown += len(text)
        return text


def _marks(tokenizer: Any, stops: Sequence[str]) -> dict[int, str]:
    """The special tokens that stop strings name, as they are written."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token: str(text) for token, text in added.items() if text.special}
    return {token: text for token, text in special.items() if any(text in stop for stop in stops)}


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
