"""A request's body -> what a model is to do for it; what cannot be honoured is refused, by the parameter's name."""

from dataclasses import dataclass
from typing import Any

from submodel.runtime.processors import Processors
from submodel.runtime.text import Prompt
from submodel.serve.openai.answers import Chat, Form, Plain, echo_of
from submodel.serve.openai.prompts import RequestPrompts
from submodel.serve.openai.schema import ChatRequest, CompletionRequest, Sampling, or_default
from submodel.serve.openai.tools import Tags, answer_grammar, format_rule, tags_of, tools_of
from submodel.serve.refusal import Refusal

_PLAIN_TOKENS = 16  # of a plain completion that gives no limit, as OpenAI has it


@dataclass(frozen=True)
class Work:
    """What a model is to do.

    Attributes:
        prompts: to continue.
        form: of the answer.
        samples: continuations of each prompt.
        kept: of these, the most likely ones that are answered; all of them as a rule.
        max_tokens: new ones of each; None for as many as the server allows.
        top_logprobs: scored beside each token; None for no scores.
        processors: of the logits, without the grammar.
        grammar: that answers keep to, and the parameter that asks for it.
        score_prompts: whether the prompts are scored as well.
    """

    prompts: list[Prompt]
    form: Form
    samples: int
    kept: int
    max_tokens: int | None
    top_logprobs: int | None
    processors: Processors
    grammar: tuple[str, str] | None = None
    score_prompts: bool = False


def chat_work(body: ChatRequest, prompts: RequestPrompts, tokenizer: Any) -> Work:
    """Of a chat."""
    if body.max_tokens == 0:
        raise Refusal(400, "max_tokens 0: give 1 or more", param="max_tokens")
    tools = tools_of(body)
    tags = tags_of(tokenizer) if tools else Tags()
    grammar = answer_grammar(tools, format_rule(body.response_format), tags)
    n = or_default(body.n, 1)
    return Work(
        [prompts.chat(body.messages, tools)],
        Chat(tokenizer, calls=tools is not None),
        n,
        n,
        body.max_completion_tokens or body.max_tokens,
        body.best,
        _processors(body, len(tokenizer)),
        None if grammar is None else (grammar, "tools" if tools else "response_format"),
    )


def completion_work(
    body: CompletionRequest, texts: list[str | list[int]], prompts: RequestPrompts, tokenizer: Any
) -> Work:
    """Of a plain completion of one or several prompts."""
    if body.suffix is not None and not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "a suffix goes with a prompt of text", param="suffix")
    if body.suffix is not None and body.echo:
        raise Refusal(400, "echo with a suffix: give one of the two", param="echo")
    if body.max_tokens == 0 and not body.echo:
        raise Refusal(400, "max_tokens 0 without echo: give 1 or more", param="max_tokens")
    n = or_default(body.n, 1)
    samples = or_default(body.best_of, n)
    if samples < n:
        raise Refusal(400, f"best_of {samples} with n {n}: give as many or more", param="best_of")
    if samples > n and body.stream:
        raise Refusal(400, "best_of with stream: what is best shows at the end, so leave stream out", param="best_of")
    written = [_written(text, body.suffix, prompts) for text in texts]
    echoes = None
    if body.echo:
        echoes = [
            echo_of(tokenizer, prompt.tokens, text if isinstance(text, str) else None)
            for prompt, text in zip(written, texts, strict=True)
        ]
    grammar = answer_grammar(None, format_rule(body.response_format))
    return Work(
        written,
        Plain(tokenizer, echoes, body.logprobs is not None, n),
        samples,
        n,
        or_default(body.max_tokens, _PLAIN_TOKENS),
        body.logprobs if samples == n else or_default(body.logprobs, 0),
        _processors(body, len(tokenizer)),
        None if grammar is None else (grammar, "response_format"),
        bool(body.echo) and body.logprobs is not None,
    )


def _written(text: str | list[int], suffix: str | None, prompts: RequestPrompts) -> Prompt:
    if not isinstance(text, str):
        return prompts.tokens(text)
    return prompts.text(text) if suffix is None else prompts.infill(text, suffix)


def _processors(body: Sampling, vocabulary: int) -> Processors:
    bias = body.logit_bias or {}
    if max(bias, default=0) >= vocabulary:
        raise Refusal(400, f"token {max(bias)}: the vocabulary has {vocabulary}", param="logit_bias")
    return Processors(
        or_default(body.repetition_penalty, 1.0),
        or_default(body.presence_penalty, 0.0),
        or_default(body.frequency_penalty, 0.0),
        tuple(bias.items()),
    )
