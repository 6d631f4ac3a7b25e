"""The outermost layer: who may speak, how much, how slowly, so that no client can stall the others.

A request's complete body is taken here, within its limits, before anything else runs. On a loopback address the Host
header must name this machine: a web page whose name is made to point here is refused. Bodies must be JSON by their
content type, which a foreign page cannot send without asking for leave first, which nothing here gives.
"""

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from submodel.errors import SubmodelError
from submodel.serve.page_files import PAGE
from submodel.serve.refusal import Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_DRAIN_S, _DRAIN_BODIES = 2, 16  # for the rest of a refused body, in seconds and in bodies of the allowed size
_OPEN = (*PAGE, "/health")  # without a key: the page holds no data


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Attributes:
        body_bytes: of a request.
        body_s, write_s: to send a request's body, and to take a piece of the answer.
        requests: that are answered or wait, all models together; more get 429.
        wait_s: for memory to load a model into; then 503.
        answer_s: for a complete answer.
        tokens: generated for one choice.
        choices: answers to one request (prompts x n).
        connections: open at once.
    """

    body_bytes: int = 1 << 20
    body_s: float = 30
    write_s: float = 60
    requests: int = 128
    wait_s: float = 60
    answer_s: float = 600
    tokens: int = 4096
    choices: int = 16
    connections: int = 512


class RequestLimit:
    """Counts the requests that are answered or wait.

    Attributes:
        active: how many there are.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self.active = 0

    def admit(self) -> "Permit":
        """Raises Refusal (429) when there are too many already."""
        if self.active >= self._limit:
            raise Refusal(
                429, f"{self._limit} requests are being answered or wait: try again", "overloaded", retry_after_s=1
            )
        self.active += 1
        return Permit(self)


class Permit:
    """One request that counts until it is released."""

    def __init__(self, limit: RequestLimit):
        self._limit: RequestLimit | None = limit

    def release(self) -> None:
        """The request has ended; a second time does nothing."""
        if self._limit is not None:
            self._limit.active -= 1
            self._limit = None


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, api_key: str | None) -> None:
    """Raises SubmodelError for an address that others reach, unless there is a key."""
    if not is_loopback(host) and not api_key:
        raise SubmodelError(f"--host {host}: others can reach it: give an --api-key that they must have")


def key_fits(header: str | None, api_key: str) -> bool:
    """Whether an Authorization header bears the key; takes as long for every wrong one."""
    scheme, _, key = (header or "").partition(" ")
    fits = hmac.compare_digest(key.strip().encode("utf-8", "replace"), api_key.encode())
    return scheme.lower() == "bearer" and fits


class _Disconnected(Exception):
    """The client has left, or takes nothing."""


class Guard:
    """An ASGI application around another, which gets only requests that are allowed."""

    def __init__(self, app: App, limits: Limits, api_key: str | None, loopback: bool):
        self._app, self._limits, self._api_key, self._loopback = app, limits, api_key, loopback

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return

        async def send_in_time(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._limits.write_s)
            except TimeoutError as error:
                raise _Disconnected from error

        more = True

        async def receive_noted() -> Message:
            nonlocal more
            message = await receive()
            more = message.get("more_body", False)
            return message

        with contextlib.suppress(_Disconnected):
            try:
                self._check(scope)
                body = await self._body(scope, receive_noted)
            except Refusal as refusal:
                if more:
                    await self._drain(receive)
                return await _refuse(refusal, send_in_time)
            await self._app(scope, _replay(body, receive), send_in_time)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._loopback and not is_loopback(_host(headers.get(b"host", ""))):
            raise Refusal(403, "the Host header names another machine: address this server as localhost", "wrong_host")
        if self._api_key and scope["path"] not in _OPEN and not key_fits(headers.get(b"authorization"), self._api_key):
            raise Refusal(401, "no or wrong API key: send Authorization: Bearer KEY", "invalid_api_key")
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal(415, f"content type {kind or 'none'!r}: send application/json", "unsupported_media_type")
            length = headers.get(b"content-length", "")
            if length.isdigit() and int(length) > self._limits.body_bytes:
                raise self._too_large()

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(self._limits.body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Disconnected
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > self._limits.body_bytes:
                        raise self._too_large()
        except TimeoutError as error:
            raise Refusal(408, f"the body took over {self._limits.body_s:g} s to come", "timeout") from error
        body = b"".join(parts)
        if fault := unicode_fault(body):
            raise Refusal(400, fault, "invalid_unicode")
        return body

    async def _drain(self, receive: Receive) -> None:
        """Read what a refused client still sends: a connection closed before that loses the refusal on its way."""
        size, more = 0, True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while more and size < _DRAIN_BODIES * self._limits.body_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"a body of over {self._limits.body_bytes} bytes: send less", "body_too_large")


def unicode_fault(body: bytes) -> str | None:
    """Why a JSON document is no Unicode, its keys included; None of one that is, or that is no JSON at all."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return "the body is not UTF-8: send it so"
    if not json.detect_encoding(body).startswith("utf-8"):
        return "the body is UTF-16 or UTF-32: send UTF-8"
    if not _SURROGATE_ESCAPE.search(body):
        return None
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair: text of this request is not Unicode"
    except (ValueError, RecursionError):  # the parser after this one says so
        return None
    return None


def _host(header: str) -> str:
    """The Host header without its port."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    headers |= refusal.headers
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
