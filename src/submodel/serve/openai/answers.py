"""Pieces of continuations -> OpenAI's answers, chat or plain, complete or streamed."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from submodel.runtime.continuation import Piece
from submodel.runtime.scoring import Score
from submodel.runtime.text import TextStream
from submodel.serve.generation import Generation
from submodel.serve.openai.calls import AnswerParts, CallReader
from submodel.serve.refusal import Refusal

_FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True)
class Echo:
    """A prompt that its answer begins with.

    Attributes:
        text, tokens: the prompt.
        offsets: where in the text each token begins.
    """

    text: str
    tokens: tuple[int, ...]
    offsets: list[int]


def echo_of(tokenizer: Any, tokens: tuple[int, ...], text: str | None) -> Echo:
    """Of a prompt that was given as text, or as tokens."""
    stream = TextStream(tokenizer, ())
    offsets, spelled = [], ""
    for token in tokens:
        offsets.append(stream.decoded)
        spelled += stream.put(token)[0]
    spelled += stream.end()
    return Echo(spelled if text is None else text, tokens, offsets)


class Form(Protocol):
    """How chat and plain completions differ."""

    id_prefix: str
    answer_kind: str
    chunk_kind: str

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def echo(self, index: int, generation: Generation) -> dict[str, Any] | None: ...

    def delta(self, piece: Piece) -> dict[str, Any]: ...

    def choice(self, index: int, pieces: list[Piece], generation: Generation) -> dict[str, Any]: ...


class Chat:
    """`chat.completion`.

    Args:
        tokenizer: spells the tokens of log-probabilities.
        calls: whether answers may call tools.
    """

    id_prefix, answer_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Any, calls: bool = False):
        self._tokenizer = tokenizer
        self._calls = calls
        self._readers: dict[int, CallReader] = {}

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def echo(self, index: int, generation: Generation) -> dict[str, Any] | None:
        return None

    def delta(self, piece: Piece) -> dict[str, Any]:
        parts = self._parts(piece.sample, [piece])
        delta: dict[str, Any] = {"content": parts.content} if parts.content else {}
        if parts.calls:
            delta["tool_calls"] = list(parts.calls.values())
        return {"index": piece.sample, "delta": delta, **self._scores_and_finish(piece.sample, [piece])}

    def choice(self, index: int, pieces: list[Piece], generation: Generation) -> dict[str, Any]:
        parts = self._parts(index, pieces)
        message: dict[str, Any] = {"role": "assistant", "content": parts.content, "refusal": None}
        if parts.calls:
            calls = [{key: value for key, value in call.items() if key != "index"} for call in parts.calls.values()]
            message |= {"content": parts.content or None, "tool_calls": calls}
        return {"index": index, "message": message, **self._scores_and_finish(index, pieces)}

    def _parts(self, index: int, pieces: list[Piece]) -> AnswerParts:
        text = _text(pieces)
        if not self._calls:
            return AnswerParts(text)
        reader = self._readers.setdefault(index, CallReader())
        return reader.put(text, last=pieces[-1].finish is not None)

    def _scores_and_finish(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        content = [
            {
                **self._token(score.token, score.logprob),
                "top_logprobs": [self._token(other, logprob) for other, logprob in score.best],
            }
            for score in _scores(pieces)
        ]
        finish = _finish(pieces)
        called = index in self._readers and self._readers[index].count
        return {
            "logprobs": {"content": content, "refusal": None} if content else None,
            "finish_reason": "tool_calls" if called and finish == "stop" else finish,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text, complete = _spelled(self._tokenizer, token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if complete else None}


class Plain:
    """`text_completion`.

    Args:
        tokenizer: spells the tokens of log-probabilities.
        echoes: the prompts, as text and tokens, where answers begin with them.
        scored: whether log-probabilities are shown.
        n: choices of each prompt.
    """

    id_prefix, answer_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, tokenizer: Any, echoes: list[Echo] | None = None, scored: bool = True, n: int = 1):
        self._tokenizer = tokenizer
        self._echoes, self._scored, self._n = echoes, scored, n

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, piece: Piece) -> dict[str, Any]:
        return self._choice(piece.sample, _text([piece]), list(_scores([piece])), [piece])

    def echo(self, index: int, generation: Generation) -> dict[str, Any] | None:
        """The first chunk of a choice, where answers begin with their prompts."""
        if self._echoes is None:
            return None
        document = self._choice(index, self._echoes[index // self._n].text, [], [Piece(index, "", ())])
        return {**document, "logprobs": self._prompt_logprobs(index, generation)}

    def choice(self, index: int, pieces: list[Piece], generation: Generation) -> dict[str, Any]:
        document = self._choice(index, _text(pieces), list(_scores(pieces)), pieces)
        echo = self.echo(index, generation)
        if echo is None:
            return document
        logprobs = echo["logprobs"]
        if logprobs and document["logprobs"]:
            logprobs = {key: logprobs[key] + document["logprobs"][key] for key in logprobs}
        return {**document, "text": echo["text"] + document["text"], "logprobs": logprobs}

    def _choice(self, index: int, text: str, scores: list[Score], pieces: list[Piece]) -> dict[str, Any]:
        before = len(self._echoes[index // self._n].text) if self._echoes else 0
        logprobs = self._logprobs(scores, [before + score.offset for score in scores]) if self._scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": _finish(pieces)}

    def _prompt_logprobs(self, index: int, generation: Generation) -> dict[str, Any] | None:
        """Of a prompt's tokens; nothing precedes the first one, so it has none."""
        scores = generation.prompt_scores(index // self._n)
        if not self._scored or self._echoes is None:
            return None
        echo = self._echoes[index // self._n]
        first = {
            "tokens": [_spelled(self._tokenizer, echo.tokens[0])[0]],
            "token_logprobs": [None],
            "top_logprobs": [None],
            "text_offset": [0],
        }
        rest = self._logprobs(scores, echo.offsets[1:])
        return {key: first[key] + rest[key] for key in first} if rest else first

    def _logprobs(self, scores: list[Score], offsets: list[int]) -> dict[str, Any] | None:
        if not scores:
            return None
        return {
            "tokens": [_spelled(self._tokenizer, score.token)[0] for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [self._best(score) for score in scores],
            "text_offset": offsets,
        }

    def _best(self, score: Score) -> dict[str, float]:
        """Of two tokens that are spelled alike, the likelier one."""
        best: dict[str, float] = {}
        for token, logprob in score.best:
            best.setdefault(_spelled(self._tokenizer, token)[0], logprob)
        return best


def _spelled(tokenizer: Any, token: int) -> tuple[str, bool]:
    """A token's text, and whether it is one; a piece of a character is spelled as the vocabulary has it."""
    text = tokenizer.decode([token])
    return (tokenizer.convert_ids_to_tokens(token), False) if "\ufffd" in text else (text, True)


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def _scores(pieces: list[Piece]) -> Iterator[Score]:
    for piece in pieces:
        yield from piece.scores


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


async def complete(
    generation: Generation, form: Form, model: str, choices: int, best_of: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The answer in one document, once all of it is there.

    Args:
        generation: of `choices` continuations.
        form: chat or plain.
        model: its name.
        choices: of all prompts.
        best_of: (n, of how many): of each prompt's choices, those whose tokens are the most likely.
    """
    choice_pieces: list[list[Piece]] = [[] for _ in range(choices)]
    async for pieces in generation:
        for piece in pieces:
            choice_pieces[piece.sample].append(piece)
    if best_of:
        n, count = best_of
        groups = [choice_pieces[at : at + count] for at in range(0, choices, count)]
        choice_pieces = [
            [replace(piece, sample=number * n + place) for piece in pieces]
            for number, group in enumerate(groups)
            for place, pieces in enumerate(sorted(group, key=lambda pieces: -pieces[-1].likelihood)[:n])
        ]
    content = [form.choice(index, pieces, generation) for index, pieces in enumerate(choice_pieces)]
    return {**head(form, form.answer_kind, model), "choices": content, "usage": usage(generation)}


async def stream(
    generation: Generation, form: Form, model: str, choices: int, include_usage: bool
) -> AsyncIterator[bytes]:
    """The answer as server-sent events; an error after the first of them is an event of its own."""
    start = head(form, form.chunk_kind, model)
    extra = {"usage": None} if include_usage else {}
    begun: set[int] = set()
    try:
        for index in range(choices):
            if opening := form.opening(index):
                yield event({**start, "choices": [opening], **extra})
        async for pieces in generation:
            for piece in pieces:
                if piece.sample not in begun and (echo := form.echo(piece.sample, generation)):
                    yield event({**start, "choices": [echo], **extra})
                begun.add(piece.sample)
                if not (piece.text or piece.scores or piece.finish):
                    continue  # its text is not certain yet
                yield event({**start, "choices": [form.delta(piece)], **extra})
        if include_usage:
            yield event({**start, "choices": [], "usage": usage(generation)})
    except Refusal as refusal:
        yield event(refusal.body)
    yield b"data: [DONE]\n\n"


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"
