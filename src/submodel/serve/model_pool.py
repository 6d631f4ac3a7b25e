"""Models in memory: loaded when first asked for, kept while there is room, the least recently used one goes first.

A model that answers is never taken away. Who needs one that is not there waits until enough others are idle; the
waiting stand in line, so that a stream of requests for one model cannot keep another out.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from submodel.errors import SubmodelError
from submodel.runtime.model_thread import ModelThread
from submodel.serve.refusal import Refusal
from submodel.serve.registry import Registry

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Entry:
    """A model that is there or on its way."""

    model: asyncio.Task[ModelThread]
    size_bytes: int
    users: int = 0
    used: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Lease:
    """The right to use a model; release it with `ModelPool.release`."""

    name: str
    model: ModelThread
    entry: _Entry


class ModelPool:
    """The models of a registry, within a budget. For one event loop.

    Args:
        registry: where they come from.
        memory_bytes: for weights and caches of all of them; one model is always loaded, whatever it takes.
        cache_bytes: keys and values of each.
        wait_s: for room; then requests are refused.
    """

    def __init__(self, registry: Registry, memory_bytes: int, cache_bytes: int = 1 << 30, wait_s: float = 60):
        self.registry = registry
        self._memory_bytes, self._cache_bytes, self._wait_s = memory_bytes, cache_bytes, wait_s
        self._entries: dict[str, _Entry] = {}
        self._queue = asyncio.Lock()
        self._freed = asyncio.Event()
        self._loading = asyncio.Lock()  # two at once would share pages, and neither's be free when it goes
        self.loads = self.evictions = 0

    @property
    def resident(self) -> dict[str, int]:
        """Sizes of the models that are there, or on their way."""
        return {name: entry.size_bytes for name, entry in self._entries.items()}

    @property
    def _used_bytes(self) -> int:
        return self.registry.shared_bytes + sum(self.resident.values())

    async def lease(self, name: str) -> Lease:
        """A model, loaded if it has to be.

        Raises:
            Refusal: no room in time (503), or it cannot be loaded (500).
        """
        deadline = asyncio.get_running_loop().time() + self._wait_s
        await self._in_time(deadline, name, self._queue.acquire())
        try:
            entry = self._entries.get(name)
            if entry is None:
                await self._make_room(name, deadline)
                task = asyncio.create_task(self._load(name))
                entry = self._entries[name] = _Entry(task, self._size(name))
                task.add_done_callback(lambda done, entry=entry: self._loaded(name, entry, done))
            entry.users += 1  # before anyone else can look
        finally:
            self._queue.release()
        try:
            model = await asyncio.shield(entry.model)
        except SubmodelError as error:
            self._end_use(entry)
            raise Refusal(500, f"{name} cannot be loaded", "load_failed") from error
        except BaseException:
            self._end_use(entry)
            raise
        return Lease(name, model, entry)

    def release(self, lease: Lease) -> None:
        self._end_use(lease.entry)

    async def close(self) -> None:
        """End all models; what they still answer is cancelled."""
        for entry in list(self._entries.values()):
            try:
                model = await entry.model
            except Exception:
                continue
            await asyncio.to_thread(model.close)
        self._entries.clear()

    def _size(self, name: str) -> int:
        return self.registry.size_bytes(name) + self._cache_bytes

    async def _load(self, name: str) -> ModelThread:
        start = time.monotonic()

        def load() -> ModelThread:
            return ModelThread(self.registry.load(name), cache_bytes=self._cache_bytes)

        async with self._loading:
            model = await asyncio.to_thread(load)
        self.loads += 1
        _log.info("%s: loaded in %.2f s", name, time.monotonic() - start)
        return model

    def _loaded(self, name: str, entry: _Entry, task: asyncio.Task[ModelThread]) -> None:
        if task.cancelled() or task.exception() is not None:
            if not task.cancelled():
                _log.error("%s: not loaded: %s", name, task.exception())
            if self._entries.get(name) is entry:
                del self._entries[name]
        if not entry.users:
            self._freed.set()

    def _end_use(self, entry: _Entry) -> None:
        entry.users -= 1
        entry.used = time.monotonic()
        if not entry.users:
            self._freed.set()

    async def _make_room(self, name: str, deadline: float) -> None:
        """Evict until a model fits; wait while all are busy."""
        size_bytes = self._size(name)
        while self._entries and self._used_bytes + size_bytes > self._memory_bytes:
            idle = [name for name, entry in self._entries.items() if not entry.users and entry.model.done()]
            if idle:
                await self._evict(min(idle, key=lambda n: self._entries[n].used))
            else:
                self._freed.clear()
                await self._in_time(deadline, name, self._freed.wait())

    async def _evict(self, name: str) -> None:
        await asyncio.to_thread(self._entries.pop(name).model.result().close)
        self.evictions += 1
        _log.info("%s: evicted", name)

    async def _in_time(self, deadline: float, name: str, wait: Coroutine[Any, Any, Any]) -> None:
        """Raises Refusal (503) when others take too long."""
        try:
            async with asyncio.timeout_at(deadline):
                await wait
        except TimeoutError as error:
            raise Refusal(
                503, f"{name} is not in memory, and the others are busy: try again", "no_memory", retry_after_s=5
            ) from error
