"""Pieces of continuations -> OpenAI's answers, chat or plain, complete or streamed."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from submodel.runtime.continuation import Piece, Score
from submodel.serve.generation import Generation
from submodel.serve.refusal import Refusal

_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


class Form(Protocol):
    """How chat and plain completions differ."""

    id_prefix: str
    answer_kind: str
    chunk_kind: str

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def delta(self, piece: Piece) -> dict[str, Any]: ...

    def choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]: ...


class Chat:
    """`chat.completion`."""

    id_prefix, answer_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {"index": piece.sample, "delta": delta, **self._scores_and_finish([piece])}

    def choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        message = {"role": "assistant", "content": _text(pieces), "refusal": None}
        return {"index": index, "message": message, **self._scores_and_finish(pieces)}

    def _scores_and_finish(self, pieces: list[Piece]) -> dict[str, Any]:
        content = [
            {
                **self._token(token, score.logprob),
                "top_logprobs": [self._token(other, logprob) for other, logprob in score.best],
            }
            for token, score in _scored(pieces)
        ]
        return {
            "logprobs": {"content": content, "refusal": None} if content else None,
            "finish_reason": _finish(pieces),
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, complete = _spelled(self._tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if complete else None}


class Plain:
    """`text_completion`."""

    id_prefix, answer_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self.choice(piece.sample, [piece])

    def choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        text = _text(pieces)
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, pieces),
            "finish_reason": _finish(pieces),
        }

    def _logprobs(self, index: int, pieces: list[Piece]) -> dict[str, Any] | None:
        scored = list(_scored(pieces))
        if not scored:
            return None
        texts = [_spelled(self._tokenizer, token)[0] for token, _ in scored]
        offsets = []
        at = self._offsets.get(index, 0)
        for text in texts:
            offsets.append(at)
            at += len(text)
        self._offsets[index] = at
        return {
            "tokens": texts,
            "token_logprobs": [score.logprob for _, score in scored],
            "top_logprobs": [
                {_spelled(self._tokenizer, token)[0]: logprob for token, logprob in score.best} for _, score in scored
            ],
            "text_offset": offsets,
        }


def _spelled(tokenizer: Any, token: int) -> tuple[str, bool]:
    """A token's text, and whether it is one; a piece of a character is spelled as the vocabulary has it."""
    text = tokenizer.decode([token])
    return (tokenizer.convert_ids_to_tokens(token), False) if "\ufffd" in text else (text, True)


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _scored(pieces: list[Piece]) -> Iterator[tuple[int, Score]]:
    for piece in pieces:
        yield from zip(piece.tokens, piece.scores, strict=False)


def _finish(pieces: list[Piece]) -> str | None:
    return _FINISH.get(pieces[-1].finish or "")


def usage(generation: Generation) -> dict[str, Any]:
    """Token counts so far."""
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    details = {"cached_tokens": generation.cached_tokens}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": details,
    }


def head(form: Form, kind: str, model: str) -> dict[str, Any]:
    """What every answer and every chunk of one begins with."""
    return {"id": f"{form.id_prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


async def complete(generation: Generation, form: Form, model: str, choices: int) -> dict[str, Any]:
    """The answer in one document, once all of it is there."""
    choice_pieces: dict[int, list[Piece]] = {index: [] for index in range(choices)}
    async for pieces in generation:
        for piece in pieces:
            choice_pieces[piece.sample].append(piece)
    content = [form.choice(index, pieces) for index, pieces in choice_pieces.items()]
    return {**head(form, form.answer_kind, model), "choices": content, "usage": usage(generation)}


async def stream(
    generation: Generation, form: Form, model: str, choices: int, include_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; an error after the first of them is an event of its own."""
    start = head(form, form.chunk_kind, model)
    extra = {"usage": None} if include_usage else {}
    try:
        for index in range(choices):
            if opening := form.opening(index):
                yield event({**start, "choices": [opening], **extra})
        async for pieces in generation:
            for piece in pieces:
                yield event({**start, "choices": [form.delta(piece)], **extra})
        if include_usage:
            yield event({**start, "choices": [], "usage": usage(generation)})
    except Refusal as refusal:
        yield event(refusal.body)
    yield b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"
