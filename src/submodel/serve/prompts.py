"""Requests -> token ids: the base's chat template, and its fill-in-the-middle tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from submodel.calibration.middle import marks_of
from submodel.serve.refusal import Refusal

# what a model writes when the middle is done
_AFTER = ("<|fim_pad|>", "<|endoftext|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<file_sep>", "▁<EOT>")
_MARK = "☺"  # what SentencePiece puts before a text, it puts before this


@dataclass(frozen=True)
class Prompt:
    """Attributes:
    tokens: its ids.
    ends: tokens that end its continuation beside the model's own.
    """

    tokens: tuple[int, ...]
    ends: frozenset[int] = frozenset()


class Prompts:
    """Writes prompts for one base."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._marks = marks_of(tokenizer)
        known = tokenizer.get_vocab() if self._marks else {}
        self._ends = frozenset(known[token] for token in self._fim_tokens + _AFTER if token in known)
        self._fim_ids = frozenset(known[token] for token in self._fim_tokens)
        opening = tokenizer("x")["input_ids"][:1]
        self._opening = opening if opening == [tokenizer.bos_token_id] else []
        first = self._encode("x")[0]
        self._spaced = tokenizer.convert_ids_to_tokens(first).startswith("▁")

    @property
    def _fim_tokens(self) -> tuple[str, ...]:
        return self._marks.spelling.tokens if self._marks else ()

    def chat(self, messages: Sequence[tuple[str, str]]) -> Prompt:
        """(role, text) of a conversation, ready for the assistant's answer."""
        if not self._tokenizer.chat_template:
            raise Refusal(400, "this base has no chat template: use /v1/completions", "no_chat_template", "messages")
        turns = [{"role": "system" if role == "developer" else role, "content": text} for role, text in messages]
        try:
            ids = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f"the base's chat template refuses these messages: {error}", param="messages") from error
        return Prompt(tuple(ids))

    def text(self, prompt: str) -> Prompt:
        """A text to continue; one that brings its own fill-in-the-middle tokens ends where a middle ends."""
        parts = self._parts(prompt)
        if parts and self._spaced:  # such a tokenizer would put spaces where the parts begin
            return self._around(*parts)
        ids = self._tokenizer(prompt)["input_ids"]
        if not ids and self._tokenizer.bos_token_id is None:
            raise Refusal(400, "an empty prompt: this base needs some text", param="prompt")
        return Prompt(tuple(ids or [self._tokenizer.bos_token_id]), self._ends if parts else frozenset())

    def tokens(self, ids: Sequence[int]) -> Prompt:
        """Token ids as they are."""
        if max(ids, default=0) >= len(self._tokenizer):
            raise Refusal(400, f"token {max(ids)}: the vocabulary has {len(self._tokenizer)}", param="prompt")
        return Prompt(tuple(ids), self._ends if self._fim_ids & set(ids) else frozenset())

    def infill(self, prefix: str, suffix: str) -> Prompt:
        """The middle between two texts."""
        if not self._marks:
            raise Refusal(
                400, "this base has no fill-in-the-middle tokens: leave suffix out", "no_fill_in_the_middle", "suffix"
            )
        return self._around("", prefix, suffix, "")

    def split(self, prompt: str) -> tuple[str, str | None]:
        """(prefix, suffix) of a prompt that was written with the base's own tokens; (prompt, None) of any other."""
        parts = self._parts(prompt)
        return (parts[1], parts[2]) if parts else (prompt, None)

    def _parts(self, prompt: str) -> tuple[str, str, str, str] | None:
        return self._marks.spelling.split(prompt) if self._marks else None

    def _around(self, head: str, prefix: str, suffix: str, tail: str) -> Prompt:
        assert self._marks is not None
        around = self._marks.around(self._encode(prefix), self._encode_within(suffix))
        return Prompt((*self._opening, *self._encode(head), *around, *self._encode_within(tail)), self._ends)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _encode_within(self, text: str) -> list[int]:
        """Token ids of a text that goes on where another ended: without the space that some tokenizers begin with."""
        if not self._spaced:
            return self._encode(text)
        return self._encode(_MARK + text)[len(self._encode(_MARK)) :]
