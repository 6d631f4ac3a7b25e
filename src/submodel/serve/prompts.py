"""Requests -> token ids: the base's chat template, and its fill-in-the-middle tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from submodel.runtime.infill import Infill
from submodel.serve.refusal import Refusal


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
        self._infill = Infill(tokenizer)

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
        parts = self._infill.split(prompt)
        if parts and self._infill.spaced:  # such a tokenizer would put spaces where the parts begin
            head, before, after, tail = parts
            return Prompt(tuple(self._infill.around(before, after, head, tail)), self._infill.ends)
        ids = self._tokenizer(prompt)["input_ids"]
        if not ids and self._tokenizer.bos_token_id is None:
            raise Refusal(400, "an empty prompt: this base needs some text", param="prompt")
        return Prompt(tuple(ids or [self._tokenizer.bos_token_id]), self._infill.ends if parts else frozenset())

    def tokens(self, ids: Sequence[int]) -> Prompt:
        """Token ids as they are."""
        if max(ids, default=0) >= len(self._tokenizer):
            raise Refusal(400, f"token {max(ids)}: the vocabulary has {len(self._tokenizer)}", param="prompt")
        return Prompt(tuple(ids), self._infill.ends if self._infill.is_in(list(ids)) else frozenset())

    def infill(self, prefix: str, suffix: str) -> Prompt:
        """The middle between two texts."""
        if not self._infill:
            raise Refusal(
                400, "this base has no fill-in-the-middle tokens: leave suffix out", "no_fill_in_the_middle", "suffix"
            )
        return Prompt(tuple(self._infill.around(prefix, suffix)), self._infill.ends)

    def split(self, prompt: str) -> tuple[str, str | None]:
        """(prefix, suffix) of a prompt that was written with the base's own tokens; (prompt, None) of any other."""
        parts = self._infill.split(prompt)
        return (parts[1], parts[2]) if parts else (prompt, None)
