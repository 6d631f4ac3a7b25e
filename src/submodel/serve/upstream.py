"""Models that other engines hold: any OpenAI-compatible server that was named on the command line.

A request goes there as the client sent it, its model replaced; the answer comes back as it is, its model replaced by
the name that it has here. Only addresses of the command line are ever spoken to.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from submodel.errors import SubmodelError
from submodel.serve.refusal import Refusal
from submodel.store import check_name

_CONNECT_S = 5


def parse_upstream(spec: str) -> tuple[str, str]:
    """`NAME=URL` -> (name, URL without a slash at its end). Raises SubmodelError for anything else."""
    name, _, url = spec.partition("=")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SubmodelError(f"--upstream {spec!r}: give NAME=URL, such as python=http://127.0.0.1:8001/v1")
    check_name(name)
    return name, url.rstrip("/")


class Upstream:
    """Another engine, which holds one of the models.

    Args:
        name: of the model, here.
        url: of its API, up to and with /v1.
        answer_s: for a complete answer.
        key: its bearer token, if it has one.
    """

    def __init__(self, name: str, url: str, answer_s: float, key: str | None = None):
        self.name, self.url = name, url
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(answer_s, connect=_CONNECT_S))
        self._model: str | None = None

    async def close(self) -> None:
        await self._client.aclose()

    async def complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The engine's answer. Raises Refusal with its own error, or 502."""
        response = await self._send(path, body)
        try:
            data = await response.aread()
        except httpx2.HTTPError as error:
            raise self._broken(error) from error
        document = _document(data)
        if response.status_code != 200 or document is None:
            raise self._refusal(response.status_code, data)
        return {**document, "model": self.name}

    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """Starts the engine's answer and returns its server-sent events. Raises Refusal as `complete` does."""
        response = await self._send(path, body)
        if response.status_code != 200:
            try:
                data = await response.aread()
            except httpx2.HTTPError as error:
                raise self._broken(error) from error
            raise self._refusal(response.status_code, data)
        return self._events(response)

    async def _events(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                document = _document(data.encode())
                if document is not None:
                    data = json.dumps({**document, "model": self.name}, ensure_ascii=False)
                yield f"data: {data}\n\n".encode()
        except httpx2.HTTPError as error:
            yield b"data: " + json.dumps(self._broken(error).body).encode() + b"\n\ndata: [DONE]\n\n"
        finally:
            await response.aclose()

    async def _send(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        try:
            if self._model is None:
                self._model = await self._served()
            request = self._client.build_request("POST", f"{self.url}/{path}", json={**body, "model": self._model})
            return await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise self._broken(error) from error

    async def _served(self) -> str:
        """What the engine calls its model: the name here if the engine has it, else the first that it lists."""
        response = await self._client.get(f"{self.url}/models")
        document = _document(response.content) or {}
        listed = document.get("data")
        names = [entry.get("id") for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        if response.status_code != 200 or not names or not isinstance(names[0], str):
            raise self._refusal(502 if response.status_code == 200 else response.status_code, response.content)
        return self.name if self.name in names else names[0]

    def _refusal(self, status: int, data: bytes) -> Refusal:
        """A fault of the client stays the client's; the engine's keys and paths are none of the client's business."""
        error = (_document(data) or {}).get("error")
        message = error.get("message") if isinstance(error, dict) else None
        about = f": {message[:500]}" if isinstance(message, str) else ""
        if status in (429, 503):
            return Refusal(status, f"the engine of {self.name} is busy{about}", "upstream_busy", retry_after_s=1)
        if status in (400, 413, 422):
            return Refusal(400, f"the engine of {self.name} refuses this request{about}", "upstream_refused")
        return Refusal(502, f"the engine of {self.name} answered {status}", "upstream_failed")

    def _broken(self, error: Exception) -> Refusal:
        kind = type(error).__name__
        return Refusal(502, f"the engine of {self.name} cannot be reached or broke off ({kind})", "upstream_failed")


def _document(data: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
