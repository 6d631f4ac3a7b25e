"""The application on a socket: `submodel serve`."""

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from submodel.errors import SubmodelError
from submodel.serve.access import Guard, Limits, check_address, is_loopback
from submodel.serve.app import build_app
from submodel.serve.metrics import Meters
from submodel.serve.model_pool import ModelPool
from submodel.serve.registry import BASE, Registry
from submodel.serve.routing import Choose, Chooser
from submodel.serve.service import Service
from submodel.serve.upstream import Upstream

_HEAD_S = 20  # for a request's first line and headers
_STOP_S = 30  # for answers that are under way when the server stops
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    Attributes:
        host, port: where it listens; port 0 is any free one.
        memory_bytes: for weights and caches; half of this machine's by default.
        cache_bytes: of that, for keys and values of one model.
        api_key: that clients must have; needed beyond loopback.
        default: the model of requests that the router gives to none.
        upstreams: URLs of engines by the name of the model that they hold.
        upstream_key: their bearer token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    memory_bytes: int | None = None
    cache_bytes: int | None = None
    api_key: str | None = None
    default: str = BASE
    upstreams: dict[str, str] = field(default_factory=dict)
    upstream_key: str | None = None
    limits: Limits = Limits()


class Server:
    """A server that listens; `run` answers until it is told to stop.

    Raises SubmodelError for an address without a key, a name that is not there, or a port that is taken.
    """

    def __init__(self, registry: Registry, choose: Choose, settings: Settings):
        check_address(settings.host, settings.api_key)
        names = list(dict.fromkeys([*registry.names, *settings.upstreams]))
        if settings.default not in names:
            raise SubmodelError(f"--default {settings.default}: there are {', '.join(names)}")
        memory = settings.memory_bytes or physical_memory() // 2
        cache = settings.cache_bytes or min(1 << 30, memory // 8)
        limits = settings.limits
        models = ModelPool(registry, memory, cache, limits.wait_s)
        self.service = Service(
            models,
            Chooser(choose, names, settings.default),
            {
                name: Upstream(name, url, limits.answer_s, settings.upstream_key)
                for name, url in settings.upstreams.items()
            },
            limits,
            Meters(),
        )
        app: Any = Guard(build_app(self.service), limits, settings.api_key, is_loopback(settings.host))
        self._socket = _listen(settings.host, settings.port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_TimedHeaders,
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_HEAD_BYTES,
                limit_concurrency=limits.connections,
                timeout_graceful_shutdown=_STOP_S,
            )
        )

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Answers until SIGINT, SIGTERM or `stop`; answers under way are finished first."""
        try:
            self._server.run([self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._server.should_exit = True


class _TimedHeaders(H11Protocol):
    """Closes a connection that does not get its next request's headers across in time."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()  # anew: a connection that has just been of use is not closed under its client's next request

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(_HEAD_S, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SubmodelError(f"{host}:{port}: cannot listen there ({error.strerror}): give another --port") from error
    listening.listen(1024)
    return listening


def physical_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
