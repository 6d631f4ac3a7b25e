"""Where a request is answered: chosen a model, given its place in memory, written as tokens, generated, sent."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from submodel.router import Signals
from submodel.runtime import Request
from submodel.runtime.text import Prompt
from submodel.serve import answers, routing
from submodel.serve.answers import Chat, Form, Plain
from submodel.serve.generation import Generation
from submodel.serve.limits import Door, Limits
from submodel.serve.memory import Lease, Models
from submodel.serve.metrics import Meters
from submodel.serve.prompts import RequestPrompts
from submodel.serve.refusal import Refusal
from submodel.serve.routing import Chooser, Chosen
from submodel.serve.schema import ChatRequest, CompletionRequest, Sampling, given
from submodel.serve.upstream import Upstream

_Result = TypeVar("_Result")
_PLAIN_TOKENS = 16  # of a plain completion that gives no limit, as OpenAI has it


class ClientLeft(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Hints:
    """What a client's headers say of its text."""

    file: str | None = None
    language: str | None = None


@dataclass(eq=False)
class _Seat:
    """A place inside, left once."""

    door: Door
    taken: bool = field(default=False)

    def take(self) -> None:
        self.door.enter()
        self.taken = True

    def leave(self) -> None:
        if self.taken:
            self.taken = False
            self.door.leave()


class Desk:
    """Answers chat and completion requests.

    Args:
        models: that this process runs.
        chooser: decides for "auto", and knows every name.
        upstreams: by the names that they answer for.
    """

    def __init__(
        self, models: Models, chooser: Chooser, upstreams: dict[str, Upstream], limits: Limits, meters: Meters
    ):
        self.models, self.chooser, self.upstreams = models, chooser, upstreams
        self.limits, self.meters = limits, meters
        self.door = Door(limits.requests)
        self.prompts = RequestPrompts(models.provision.tokenizer)

    async def chat(self, http: HttpRequest, body: ChatRequest, hints: Hints) -> Response:
        """`POST /v1/chat/completions`."""

        async def prompts() -> list[Prompt]:
            turns = [(message.role, message.text) for message in body.messages]
            return [await asyncio.to_thread(self.prompts.chat, turns)]

        question = routing.of_chat(body.messages, hints.file, hints.language)
        most = body.max_completion_tokens or body.max_tokens or self.limits.tokens
        form = Chat(self.models.provision.tokenizer)
        return await self._answer(http, "chat/completions", body, question, prompts, most, body.best, form)

    async def completion(self, http: HttpRequest, body: CompletionRequest, hints: Hints) -> Response:
        """`POST /v1/completions`."""
        given_prompts = _prompts_of(body)
        if body.suffix is not None and not all(isinstance(prompt, str) for prompt in given_prompts):
            raise Refusal(400, "a suffix goes with a prompt of text", param="suffix")

        def write() -> list[Prompt]:
            return [
                self.prompts.tokens(prompt)
                if not isinstance(prompt, str)
                else self.prompts.text(prompt)
                if body.suffix is None
                else self.prompts.infill(prompt, body.suffix)
                for prompt in given_prompts
            ]

        async def prompts() -> list[Prompt]:
            return await asyncio.to_thread(write)

        text = given_prompts[0] if isinstance(given_prompts[0], str) else self._decoded(given_prompts[0])
        question = routing.of_completion(text, body.suffix, self.prompts, hints.file, hints.language)
        most = body.max_tokens or _PLAIN_TOKENS
        form = Plain(self.models.provision.tokenizer)
        return await self._answer(http, "completions", body, question, prompts, most, body.logprobs, form)

    def _decoded(self, tokens: list[int]) -> str:
        return self.models.provision.tokenizer.decode(self.prompts.tokens(tokens).tokens)

    async def _answer(
        self,
        http: HttpRequest,
        path: str,
        body: Sampling,
        question: Signals,
        prompts: Callable[[], Coroutine[Any, Any, list[Prompt]]],
        most: int,
        best: int | None,
        form: Form,
    ) -> Response:
        seat = _Seat(self.door)
        seat.take()
        try:
            chosen = await while_there(http, self.chooser.model(body.model, question))
            if body.model == routing.AUTO:
                self.meters.routed.labels(chosen.name, chosen.signal).inc()
            if chosen.name in self.upstreams:
                return await self._forward(http, path, body, chosen, seat)
            body.refuse_not_offered()
            written = await prompts()
            generation = await self._start(http, body, chosen, written, most, best, seat)
        except BaseException:
            seat.leave()
            raise
        choices = len(written) * given(body.n, 1)
        if body.stream:
            events = answers.stream(generation, form, chosen.name, choices, body.include_usage)
            return Events(events, generation.cancel, chosen.headers)
        try:
            found = await while_there(http, answers.whole(generation, form, chosen.name, choices))
        finally:
            generation.cancel()
        return JSONResponse(found, headers=chosen.headers)

    async def _start(
        self,
        http: HttpRequest,
        body: Sampling,
        chosen: Chosen,
        prompts: list[Prompt],
        most: int,
        best: int | None,
        seat: _Seat,
    ) -> Generation:
        """Begins to generate; the seat and the model's lease are given back when that ends."""
        n = given(body.n, 1)
        if len(prompts) * n > self.limits.choices:
            raise Refusal(400, f"{len(prompts) * n} choices: {self.limits.choices} are allowed at once", param="n")
        self._check_length(prompts, self.models.provision.context)
        lease = await while_there(http, self.models.lease(chosen.name), self._give_back)
        try:
            room = self._check_length(prompts, lease.live.context)
            first = secrets.randbits(62) if body.seed is None else body.seed
            like = Request(
                "",
                (),
                min(most, room, self.limits.tokens),
                body.stops,
                tuple(first + i for i in range(n)),
                given(body.temperature, 1.0),
                given(body.top_p, 1.0),
            )
        except BaseException:
            self._give_back(lease)
            raise

        def done() -> None:
            self._give_back(lease)
            seat.leave()
            self._count(chosen.name, generation)

        generation = Generation(lease.live, done, self.limits.answer_s)
        generation.start(prompts, like, best)
        return generation

    def _give_back(self, lease: Lease) -> None:
        self.models.give_back(lease)

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

    async def _forward(self, http: HttpRequest, path: str, body: Sampling, chosen: Chosen, seat: _Seat) -> Response:
        """Another engine's answer."""
        upstream = self.upstreams[chosen.name]
        try:
            document = body.model_dump(mode="json", exclude_unset=True)
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # in a field of the engine's; ours are checked before
            raise Refusal(400, "half of a surrogate pair: text of this request is not Unicode") from error
        if body.stream:
            events = await while_there(http, upstream.stream(path, document))
            return Events(events, seat.leave, chosen.headers)
        found = await while_there(http, upstream.whole(path, document))
        seat.leave()
        return JSONResponse(found, headers=chosen.headers)


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


async def while_there(
    http: HttpRequest, work: Coroutine[Any, Any, _Result], undo: Callable[[_Result], None] = lambda result: None
) -> _Result:
    """A result, worked on for as long as the client is connected.

    Args:
        http: whose body has been read.
        work: cancelled when the client leaves.
        undo: gets a result that came too late.

    Raises:
        ClientLeft: it has left.
    """
    task = asyncio.create_task(work)
    left = asyncio.create_task(_left(http))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        left.cancel()
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda late: None if late.cancelled() or late.exception() else undo(late.result()))


async def _left(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _prompts_of(body: CompletionRequest) -> list[str | list[int]]:
    """Raises Refusal when there is none."""
    prompt: Any = body.prompt
    found = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else list(prompt)
    if not found or not all(isinstance(one, str) or one for one in found):
        raise Refusal(400, "an empty prompt: give a text, token ids, or several of them", param="prompt")
    return found
