"""Prompts of requests, written by the base's tokenizer; what it cannot write is refused."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from submodel.runtime.text import Prompt, Prompts
from submodel.serve.openai.conversation import Conversations
from submodel.serve.openai.schema import ChatMessage
from submodel.serve.openai.tools import Tools
from submodel.serve.refusal import Refusal


class RequestPrompts:
    """Writes the prompts of requests to models of one base. Every method raises Refusal for what cannot be written."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._prompts = Prompts(tokenizer)
        self._conversations = Conversations(self._prompts)

    def chat(self, messages: list[ChatMessage], tools: Tools | None = None) -> Prompt:
        """A conversation, ready for the assistant's answer, with the tools that it may call."""
        if not self._prompts.has_template:
            raise Refusal(400, "this base has no chat template: use /v1/completions", "no_chat_template", "messages")
        try:
            return self._prompts.conversation(*self._conversations.messages(messages, tools))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f"the base's chat template refuses these messages: {error}", param="messages") from error

    def text(self, text: str) -> Prompt:
        """A text to continue; of an empty one, whatever a text begins with."""
        prompt = self._prompts.text(text)
        if prompt.tokens:
            return prompt
        if self._tokenizer.bos_token_id is None:
            raise Refusal(400, "an empty prompt: this base needs some text", param="prompt")
        return Prompt((self._tokenizer.bos_token_id,), prompt.ends)

    def tokens(self, ids: Sequence[int]) -> Prompt:
        """Token ids as they are."""
        if max(ids, default=0) >= len(self._tokenizer):
            raise Refusal(400, f"token {max(ids)}: the vocabulary has {len(self._tokenizer)}", param="prompt")
        return self._prompts.tokens(ids)

    def infill(self, before: str, after: str) -> Prompt:
        """The middle between two texts."""
        if not self._prompts.has_infill:
            raise Refusal(
                400, "this base has no fill-in-the-middle tokens: leave suffix out", "no_fill_in_the_middle", "suffix"
            )
        return self._prompts.infill(before, after)

    def split(self, prompt: str) -> tuple[str, str | None]:
        """(before, after) of a prompt that was written with the base's own tokens; (prompt, None) of any other."""
        return self._prompts.split(prompt)
