"""Text as its tokens come: whole characters only, cut before a stop string, no part of which is ever shown."""

from collections.abc import Sequence
from typing import Any

_CONTEXT = 8  # prompt tokens decoded with the text: some tokenizers write a piece's space by what stands before it
_UNFINISHED = 8  # tokens that a character can be waited for; bytes that make none by then are shown as they are


class TextStream:
    """One continuation's text."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._stops = stops
        self._tokens = list(prompt[-_CONTEXT:])
        self._start, self._read = 0, len(self._tokens)  # the text up to `read` is out; it is decoded from `start` on
        self._held = ""  # may be the beginning of a stop string

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
        before, whole = (
            self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for tokens in (self._tokens[self._start : self._read], self._tokens[self._start :])
        )
        whole_characters = not whole.endswith("\ufffd") or len(self._tokens) - self._read > _UNFINISHED
        if len(whole) <= len(before) or not (whole_characters or last):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return whole[len(before) :]

    def _release(self, text: str) -> tuple[str, bool]:
        held = self._held + text
        found = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self._held = ""
            return held[: min(found)], True
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
