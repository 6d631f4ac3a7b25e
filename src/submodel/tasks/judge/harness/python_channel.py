"""Calls between the two processes of a Python judgement, over one socket: frames of a length and a JSON text.

Each side can ask the other, also while it is being asked: a test may pass a function of its own to the program.
A request is {"do": name, ...}; its answer {"value": ..., "changed": ...} or {"error": [names, message]}.
"""

import json
import os
from collections.abc import Callable
from typing import Any

from python_codec import Junk  # pyright: ignore[reportMissingImports]

_LIMIT = 64 << 20  # bytes of one message
_CHUNK = 1 << 20


class Gone(Exception):
    """The other process does not answer any more."""


class Channel:
    """One end. `serve(request)` answers what the other side asks."""

    def __init__(self, fd: int, serve: Callable[[dict[str, Any]], dict[str, Any]]):
        self._fd = fd
        self._serve = serve

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, serve what is asked meanwhile, return the answer. Gone, Junk."""
        self._send(request)
        while True:
            message = self._receive()
            if "do" not in message:
                return message
            self._send(self._serve(message))

    def serve_forever(self) -> None:
        """Answer requests until the other side is gone."""
        while True:
            try:
                message = self._receive()
            except Gone:
                return
            self._send(self._serve(message))

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, separators=(",", ":")).encode()
        unsent = memoryview(len(data).to_bytes(8, "big") + data)
        try:
            while unsent:
                unsent = unsent[os.write(self._fd, unsent) :]
        except OSError as error:
            raise Gone(str(error)) from None

    def _receive(self) -> dict[str, Any]:
        try:
            size = int.from_bytes(self._exactly(8), "big")
            if size > _LIMIT:
                raise Junk(f"a message of {size} bytes; at most {_LIMIT}")
            message = json.loads(self._exactly(size))
        except OSError as error:
            raise Gone(str(error)) from None
        except (ValueError, RecursionError) as error:
            raise Junk(f"{type(error).__name__}: {error}") from None
        if not isinstance(message, dict):
            raise Junk("a message that is no request and no answer")
        return message

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = os.read(self._fd, min(size - len(data), _CHUNK))
            if not part:
                raise Gone("end of file")
            data += part
        return bytes(data)
