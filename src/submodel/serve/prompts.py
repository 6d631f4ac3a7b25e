"""Requests -> token ids: the base's chat template, and its fill-in-the-middle tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from submodel.serve.refusal import Refusal

# prefix, suffix, middle, as families spell them
_SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)
# what a model writes when the middle is done
_AFTER = ("<|fim_pad|>", "<|endoftext|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<file_sep>")


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
        known = tokenizer.get_added_vocab()
        self._fim = next(
            (spelling for spelling in _SPELLINGS if all(token in known for token in spelling)),
            None,
        )
        marks = (*self._fim, *_AFTER) if self._fim else ()
        self._fim_ids = tuple(known[token] for token in self._fim or ())
        self._ends = frozenset(known[token] for token in marks if token in known)

    @property
    def fills_in(self) -> bool:
        """Whether the base has fill-in-the-middle tokens."""
        return self._fim is not None

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
        _, suffix = self.split(prompt)
        ids = self._tokenizer(prompt)["input_ids"]
        if not ids and self._tokenizer.bos_token_id is None:
            raise Refusal(400, "an empty prompt: this base needs some text", param="prompt")
        return Prompt(tuple(ids or [self._tokenizer.bos_token_id]), frozenset() if suffix is None else self._ends)

    def tokens(self, ids: Sequence[int]) -> Prompt:
        """Token ids as they are."""
        if max(ids, default=0) >= len(self._tokenizer):
            raise Refusal(400, f"token {max(ids)}: the vocabulary has {len(self._tokenizer)}", param="prompt")
        return Prompt(tuple(ids), self._ends if set(ids) & set(self._fim_ids) else frozenset())

    def infill(self, prefix: str, suffix: str) -> Prompt:
        """The middle between two texts."""
        if not self._fim:
            raise Refusal(
                400, "this base has no fill-in-the-middle tokens: leave suffix out", "no_fill_in_the_middle", "suffix"
            )
        before, after = (self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prefix, suffix))
        first, second, middle = self._fim_ids
        return Prompt((first, *before, second, *after, middle), self._ends)

    def split(self, prompt: str) -> tuple[str, str | None]:
        """(prefix, suffix) of a prompt that was written with the base's own tokens; (prompt, None) of any other."""
        if not self._fim:
            return prompt, None
        first, second, middle = self._fim
        before, found, rest = prompt.partition(second)
        if not found or first not in before or middle not in rest:
            return prompt, None
        return before.partition(first)[2], rest.partition(middle)[0]
