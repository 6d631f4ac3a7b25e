"""How a request is answered: a model is chosen and leased, the prompt written in tokens, the answer generated."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from submodel.errors import SubmodelError
from submodel.router import Signals
from submodel.runtime import Request
from submodel.runtime.forward import end_tokens
from submodel.runtime.grammar import Grammars
from submodel.runtime.model_thread import ModelThread
from submodel.runtime.processors import Processors
from submodel.runtime.text import Prompt
from submodel.serve import routing
from submodel.serve.access import Limits, Permit, RequestLimit
from submodel.serve.generation import Generation
from submodel.serve.metrics import Meters
from submodel.serve.model_pool import Lease, ModelPool
from submodel.serve.openai import answers
from submodel.serve.openai.prompts import RequestPrompts
from submodel.serve.openai.schema import ChatRequest, CompletionRequest, Sampling, or_default
from submodel.serve.openai.work import Work, chat_work, completion_work
from submodel.serve.refusal import Refusal
from submodel.serve.routing import Chooser, Chosen
from submodel.serve.upstream import Upstream

_Result = TypeVar("_Result")


class ClientDisconnected(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Hints:
    """What a client's headers say about its text."""

    file: str | None = None
    language: str | None = None


class Service:
    """Answers chat and completion requests.

    Args:
        models: that this process runs.
        chooser: decides for "auto", and knows every name.
        upstreams: by the names that they answer for.
    """

    def __init__(
        self, models: ModelPool, chooser: Chooser, upstreams: dict[str, Upstream], limits: Limits, meters: Meters
    ):
        self.models, self.chooser, self.upstreams = models, chooser, upstreams
        self.limits, self.meters = limits, meters
        self.requests = RequestLimit(limits.requests)
        self.prompts = RequestPrompts(models.registry.tokenizer)
        self._grammars: dict[frozenset[int], Grammars] = {}  # by the tokens that end a model's text
        self._compiling = asyncio.Lock()

    async def chat(self, http: HttpRequest, body: ChatRequest, hints: Hints) -> Response:
        """`POST /v1/chat/completions`."""
        signals = routing.of_chat(body.messages, hints.file, hints.language)
        write = partial(chat_work, body, self.prompts, self.models.registry.tokenizer)
        return await self._answer(http, "chat/completions", body, signals, write)

    async def completion(self, http: HttpRequest, body: CompletionRequest, hints: Hints) -> Response:
        """`POST /v1/completions`."""
        texts = _prompts_of(body)
        text = texts[0] if isinstance(texts[0], str) else self._decoded(texts[0])
        signals = routing.of_completion(text, body.suffix, self.prompts, hints.file, hints.language)
        write = partial(completion_work, body, texts, self.prompts, self.models.registry.tokenizer)
        return await self._answer(http, "completions", body, signals, write)

    def _decoded(self, tokens: list[int]) -> str:
        return self.models.registry.tokenizer.decode(self.prompts.tokens(tokens).tokens)

    async def _answer(
        self, http: HttpRequest, path: str, body: Sampling, signals: Signals, write: Callable[[], Work]
    ) -> Response:
        permit = self.requests.admit()
        try:
            chosen = await while_connected(http, self.chooser.model(body.model, signals))
            if body.model == routing.AUTO:
                self.meters.routed.labels(chosen.name, chosen.signal).inc()
            if chosen.name in self.upstreams:
                return await self._forward(http, path, body, chosen, permit)
            body.refuse_not_offered()
            work = await asyncio.to_thread(write)
            generation = await self._start(http, body, chosen, work, permit)
        except BaseException:
            permit.release()
            raise
        choices = len(work.prompts) * work.samples
        if body.stream:
            events = answers.stream(generation, work.form, chosen.name, choices, body.include_usage)
            return Events(events, generation.cancel, chosen.headers)
        best_of = (work.kept, work.samples) if work.samples > work.kept else None
        try:
            complete = answers.complete(generation, work.form, chosen.name, choices, best_of)
            answer = await while_connected(http, complete)
        finally:
            generation.cancel()
        return JSONResponse(answer, headers=chosen.headers)

    async def _start(self, http: HttpRequest, body: Sampling, chosen: Chosen, work: Work, permit: Permit) -> Generation:
        """Begins to generate; the permit and the model's lease are released when that ends."""
        choices = len(work.prompts) * work.samples
        if choices > self.limits.choices:
            raise Refusal(
                400,
                f"{choices} choices: {self.limits.choices} are allowed at once",
                param="n" if work.samples == work.kept else "best_of",
            )
        self._check_length(work.prompts, self.models.registry.context)
        lease = await while_connected(http, self.models.lease(chosen.name), self._release)
        try:
            room = self._check_length(work.prompts, lease.model.context)
            processors, named = await self._processors(lease.model, work)
            first = secrets.randbits(62) if body.seed is None else body.seed
            template = Request(
                "",
                (),
                min(or_default(work.max_tokens, self.limits.tokens), room, self.limits.tokens),
                body.stops,
                tuple(first + i for i in range(work.samples)),
                or_default(body.temperature, 1.0),
                or_default(body.top_p, 1.0),
                max(0, or_default(body.top_k, 0)),
                processors=processors,
                named=named,
            )
        except BaseException:
            self._release(lease)
            raise

        def done() -> None:
            self._release(lease)
            permit.release()
            self._count(chosen.name, generation)

        param = work.grammar[1] if work.grammar else None
        generation = Generation(lease.model, done, self.limits.answer_s, param)
        generation.start(work.prompts, template, work.top_logprobs, work.score_prompts)
        return generation

    async def _processors(self, model: ModelThread, work: Work) -> tuple[Processors, tuple[int, ...]]:
        """With the grammar, compiled; and the tokens that they ask for. Raises Refusal where it cannot be kept to."""
        biased = tuple(token for token, bias in work.processors.bias if bias > 0)
        if work.grammar is None:
            return work.processors, biased
        text, param = work.grammar
        try:
            async with self._compiling:
                ends = end_tokens(model.loaded)
                if ends not in self._grammars:
                    self._grammars[ends] = await asyncio.to_thread(Grammars, model.loaded.tokenizer, ends)
                grammars = self._grammars[ends]
                grammar = await asyncio.to_thread(grammars.lark, text)
        except SubmodelError as error:
            raise Refusal(400, f"{param}: {error}", "unsupported_grammar", param) from error
        tokens = await asyncio.to_thread(lambda: model.loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        return replace(work.processors, grammar=grammar), (*biased, *tokens, *grammars.letters)

    def _release(self, lease: Lease) -> None:
        self.models.release(lease)

    def _check_length(self, prompts: list[Prompt], context: int) -> int:
        """Tokens that the longest prompt leaves. Raises Refusal when there are none."""
        longest = max(len(prompt.tokens) for prompt in prompts)
        if longest >= context:
            raise Refusal(
                400,
                f"a prompt of {longest} tokens: this model takes {context}, the answer's included",
                "context_length_exceeded",
                "prompt",
            )
        return context - longest

    def _count(self, name: str, generation: Generation) -> None:
        meters = self.meters
        meters.tokens.labels(name, "prompt").inc(generation.prompt_tokens)
        meters.tokens.labels(name, "completion").inc(generation.completion_tokens)
        meters.cached.labels(name).inc(generation.cached_tokens)
        if generation.first_s is not None:
            meters.first_token.labels(name).observe(generation.first_s)
        if generation.per_token_s is not None:
            meters.per_token.labels(name).observe(generation.per_token_s)

    async def _forward(self, http: HttpRequest, path: str, body: Sampling, chosen: Chosen, permit: Permit) -> Response:
        """Another engine's answer."""
        upstream = self.upstreams[chosen.name]
        document = body.model_dump(mode="json", exclude_unset=True, by_alias=True)
        if body.stream:
            events = await while_connected(http, upstream.stream(path, document))
            return Events(events, permit.release, chosen.headers)
        answer = await while_connected(http, upstream.complete(path, document))
        permit.release()
        return JSONResponse(answer, headers=chosen.headers)


class Events(StreamingResponse):
    """Server-sent events, and what to do when their reader has had them all or is gone."""

    def __init__(self, events: AsyncIterator[bytes], ended: Callable[[], None], headers: dict[str, str]):
        super().__init__(events, headers={"Cache-Control": "no-store", **headers}, media_type="text/event-stream")
        self._events, self._ended = events, ended

    async def __call__(self, *arguments: Any) -> None:
        try:
            await super().__call__(*arguments)
        finally:
            self._ended()
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


async def while_connected(
    http: HttpRequest, work: Coroutine[Any, Any, _Result], undo: Callable[[_Result], None] = lambda result: None
) -> _Result:
    """A result, worked on for as long as the client is connected.

    Args:
        http: whose body has been read.
        work: cancelled when the client leaves.
        undo: gets a result that came when the client had left.

    Raises:
        ClientDisconnected: the client has left.
    """
    task = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        disconnected.cancel()
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda late: None if late.cancelled() or late.exception() else undo(late.result()))


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _prompts_of(body: CompletionRequest) -> list[str | list[int]]:
    """Raises Refusal when there is none."""
    prompt: Any = body.prompt
    prompts = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    if not prompts or not all(isinstance(one, str) or one for one in prompts):
        raise Refusal(400, "an empty prompt: give a text, token ids, or several of them", param="prompt")
    return prompts
