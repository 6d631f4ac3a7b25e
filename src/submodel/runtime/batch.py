"""Many continuations at once: prompts sorted by length, prefilled together, decoded side by side.

A sequence leaves the batch the moment it stops and the next prompt takes its slot; the continuations of one prompt
share its prefill, and what all prompts begin with, such as a task's worked examples, is computed once. Lanes, one a
processor core with single-threaded arithmetic, work off one queue (see `workers`). Towards the end, when a step costs
the reading of the weights whoever takes part, a lane with few sequences hands them to another, and its core as well.
Each continuation has a generator of its own, so what is sampled depends on who shares the batch by rounding alone.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from submodel.runtime.cache import KeyValueCache, cache_for, token_bytes
from submodel.runtime.continuation import Continuation, Request, Sequence
from submodel.runtime.forward import SequenceCache, extend, forward, one_row, prefill
from submodel.runtime.load import Loaded
from submodel.runtime.scheduler import Scheduler
from submodel.runtime.vocabulary import MoreTokens

_PREFILL_TOKENS = 2048  # at once, padding included: bounds its activations
_ENOUGH = 512  # tokens at once from which on more do not make one cheaper, padding does make it dearer
_SLACK = 128  # columns beyond the longest sequence: room to go on before the cache is moved
_CACHE_BYTES = 2 << 30  # of keys and values, all lanes together
_MOST_SLOTS = 64  # a lane; beyond it a step costs in proportion, so nothing more is won
_SHARED = 64  # tokens that all prompts begin with, from which on they are computed once
_FEW = 16  # sequences of a lane that another takes over once no prompt waits


@dataclass
class _Prefilled:
    """A prompt whose keys and values are in a row of a cache, and the seeds that still wait for a slot."""

    request: Request
    cache: SequenceCache
    row: int
    logits: torch.Tensor
    seeds: deque[int]


def generate_batch(
    loaded: Loaded,
    requests: Iterable[Request],
    *,
    slots: int | None = None,
    lanes: int | None = None,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> Iterator[Continuation]:
    """Continue every prompt; continuations come as they finish.

    Args:
        loaded: the model.
        requests: what to continue.
        slots: sequences side by side on each lane; as many as fit a cache of 2 GiB, 64 at most, by default.
        lanes: cores to work on, all of torch's threads by default; always one on an accelerator.
        progress: called with the number of tokens of each finished continuation.

    Raises:
        ValueError: an empty prompt.
    """
    # the longest first, so that prompts of like length are run together
    waiting = deque(sorted(requests, key=lambda r: len(r.prompt), reverse=True))
    if any(not request.prompt for request in waiting):
        raise ValueError("a prompt needs at least one token")
    threads = torch.get_num_threads()
    cpu = loaded.model.device.type == "cpu"
    count = min(lanes or (threads if cpu else 1), max(1, len(waiting)))
    rows = slots or _rows(loaded.model, waiting, count)
    results: queue.Queue[Continuation | BaseException | None] = queue.Queue()  # None: a lane has ended
    stop = threading.Event()

    def work() -> None:
        try:
            with torch.inference_mode():
                for continuation in _lane(loaded, crew, rows):
                    results.put(continuation)
                    if stop.is_set():
                        return
        except BaseException as error:  # raised by the thread that reads the results
            results.put(error)
        finally:
            results.put(None)

    # lanes work in threads of their own and hand their results to this one
    crew = _Crew(waiting, count, threads if cpu and count > 1 else None, _beginning(loaded, waiting))
    pool = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in pool:
        thread.start()
    try:
        running = count
        while running:
            item = results.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                progress(len(item.tokens))
                yield item
    finally:
        stop.set()
        waiting.clear()
        for thread in pool:
            thread.join()
        torch.set_num_threads(threads)


class _Crew:
    """What the lanes share: the queue of prompts, the sequences of lanes that have left, the cores.

    `cores` are divided among the lanes that are still there; None leaves torch's threads as they are. `beginning` are
    keys and values of what all prompts begin with, if that is worth it.
    """

    def __init__(self, waiting: deque[Request], lanes: int, cores: int | None, beginning: list[torch.Tensor] | None):
        self.waiting = waiting
        self.beginning = beginning
        self._active = lanes
        self._cores = cores
        self._handed_over: list[Scheduler] = []
        self._lock = threading.Lock()

    def use_cores(self) -> None:
        """Give the calling lane its share of the cores."""
        if self._cores is not None and torch.get_num_threads() != (share := max(1, self._cores // self._active)):
            torch.set_num_threads(share)

    def hand_over(self, scheduler: Scheduler) -> bool:
        """Leave one's sequences to another lane; False for the last lane."""
        with self._lock:
            if self._active == 1:
                return False
            self._handed_over.append(scheduler)
            self._active -= 1
            return True

    def take_over(self) -> list[Scheduler]:
        """What other lanes have handed over."""
        with self._lock:
            schedulers, self._handed_over = self._handed_over, []
            return schedulers

    def leave(self) -> bool:
        """Leave with nothing; False while there is something to take over."""
        with self._lock:
            self._active -= not self._handed_over
            return not self._handed_over


def _joined(loaded: Loaded, parts: list[Scheduler]) -> Scheduler:
    """All sequences in one cache, the longest first."""
    rows = [(part.cache, row, sequence) for part in parts for row, sequence in enumerate(part.running)]
    rows.sort(key=lambda item: item[0].length(item[1]), reverse=True)
    joined = Scheduler(loaded, cache_for(loaded.model, len(rows), max(part.cache.columns for part in parts)))
    for cache, row, sequence in rows:
        joined.cache.add(cache, row)
        joined.running.append(sequence)
    return joined


def _lane(loaded: Loaded, crew: _Crew, rows: int) -> Iterator[Continuation]:
    """Work off the shared queue, longest prompt first, in `rows` slots."""
    waiting = crew.waiting
    scheduler = Scheduler(loaded, cache_for(loaded.model, rows, _longest(waiting) + _SLACK))
    ready: deque[_Prefilled] = deque()
    crew.use_cores()
    while True:
        # fill free slots: from prompts that have been run, else by running more
        while len(scheduler.running) < rows and (ready or waiting):
            if not ready:
                # a prefill of few rows costs almost that of many, so it waits until a quarter of the slots is free
                free = rows - len(scheduler.running)
                if scheduler.running and free < max(1, rows // 4):
                    break
                ready.extend(_prefill(loaded, crew, free))
                if not ready:
                    break
            first = ready[0]
            sequence = Sequence(loaded, first.request, first.seeds.popleft())
            if not first.seeds:
                ready.popleft()
            scheduler.start(sequence, first.logits, first.cache, first.row)
            if sequence.finish is not None:
                yield sequence.continuation
        # nothing waits any more: few sequences go to another lane, and theirs come here
        if not waiting and not ready:
            if 0 < len(scheduler.running) <= _FEW and crew.hand_over(scheduler):
                return
            if others := crew.take_over():
                scheduler = _joined(loaded, [scheduler, *others])
            if not scheduler.running and crew.leave():
                return
        crew.use_cores()
        if scheduler.running:
            for sequence in scheduler.step():
                yield sequence.continuation


def _beginning(loaded: Loaded, waiting: deque[Request]) -> list[torch.Tensor] | None:
    """Keys and values of what all prompts begin with, all but their last tokens at most; None for a few tokens."""
    if len(waiting) < 2:
        return None
    common = os.path.commonprefix([r.prompt for r in waiting])[: min(len(r.prompt) for r in waiting) - 1]
    if len(common) < _SHARED:
        return None
    with torch.inference_mode():
        cache, _ = prefill(loaded, list(common), len(common))
        return cache.cut(0, len(common)) if isinstance(cache, KeyValueCache) else None


def _prefill(loaded: Loaded, crew: _Crew, free: int) -> list[_Prefilled]:
    """Run the next prompts of the queue together, as many as have a slot and fit the budget of tokens."""
    model, waiting = loaded.model, crew.waiting
    taken: list[Request] = []
    while waiting and sum(len(r.seeds) for r in taken) < free:
        try:
            request = waiting.popleft()
        except IndexError:  # another lane took the last one
            break
        if crew.beginning:
            return [_finish_prompt(loaded, crew.beginning, request)]
        taken.append(request)
        width = len(taken[0].prompt)
        if (len(taken) + 1) * width > _PREFILL_TOKENS:
            break
        if len(taken) * width >= _ENOUGH and _next_length(waiting) < 0.9 * width:
            break
    if not taken:
        return []
    width = len(max(taken, key=lambda r: len(r.prompt)).prompt)
    cache = cache_for(model, len(taken), width)
    if not isinstance(cache, KeyValueCache):
        return [_alone(loaded, request) for request in taken]
    pads = [width - len(r.prompt) for r in taken]
    ids = torch.tensor([[r.prompt[0]] * pad + list(r.prompt) for r, pad in zip(taken, pads, strict=True)])
    mask = (torch.arange(width)[None] >= torch.tensor(pads)[:, None]).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    device = model.device
    more = [_more(loaded, request) for request in taken]
    logits = forward(loaded, ids.to(device), mask.to(device), positions.to(device), cache, more)
    cache.advance(width)
    cache.starts = pads
    return [_Prefilled(r, cache, i, logits[i], deque(range(len(r.seeds)))) for i, r in enumerate(taken)]


def _next_length(waiting: deque[Request]) -> int:
    """Tokens of the prompt that comes next; 0 if another lane took the last one."""
    try:
        return len(waiting[0].prompt)
    except IndexError:
        return 0


def _alone(loaded: Loaded, request: Request) -> _Prefilled:
    """Run a prompt by itself."""
    cache, logits = prefill(loaded, list(request.prompt), len(request.prompt))
    return _Prefilled(request, cache, 0, logits[0], deque(range(len(request.seeds))))


def _finish_prompt(loaded: Loaded, beginning: list[torch.Tensor], request: Request) -> _Prefilled:
    """Run what a prompt has beyond the beginning; by itself, since padding in the midst of a row moves its windows."""
    cache = one_row(loaded, len(request.prompt))
    assert isinstance(cache, KeyValueCache)
    cache.paste(beginning)
    logits = extend(loaded, cache, list(request.prompt[cache.end :]), _more(loaded, request))
    return _Prefilled(request, cache, 0, logits[0], deque(range(len(request.seeds))))


def _more(loaded: Loaded, request: Request) -> MoreTokens | None:
    return loaded.limit.used_by(request.sayable) if loaded.limit else None


def _longest(waiting: Iterable[Request]) -> int:
    return max((len(r.prompt) + r.max_tokens for r in list(waiting)), default=1)


def _rows(model: Any, waiting: deque[Request], lanes: int) -> int:
    """Slots a lane: no more than there is work for, and than fit the budget of the cache."""
    fit = _CACHE_BYTES // (lanes * token_bytes(model) * (_longest(waiting) + _SLACK))
    work = -(-sum(len(r.seeds) for r in waiting) // lanes)
    return max(1, min(_MOST_SLOTS, fit, work))
