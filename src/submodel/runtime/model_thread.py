"""A model in a thread of its own, which answers requests that come and go: continuous batching.

Between two steps of all rows it takes newcomers, drops who is cancelled and runs at most one piece of one prompt, so
that a long prompt never holds others up for longer than a piece. Every prompt runs by itself, in pieces that depend on
its length alone, and the native engine computes every row by itself: what a request is answered does not depend, bit
for bit, on who else is there, nor on earlier requests: of a prompt that begins as others did, complete pieces are taken
from a `PrefixCache` instead of being computed again. Families without the engine share a step through `transformers`,
where the number of rows moves the rounding; those that keep
other states than keys and values run a prompt at once, and keep no beginnings.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from submodel.errors import SubmodelError
from submodel.runtime.cache import KeyValueCache, cache_for, token_bytes
from submodel.runtime.continuation import Piece, Request, Sequence
from submodel.runtime.forward import SequenceCache, extend, extend_scored, one_row
from submodel.runtime.load import Loaded
from submodel.runtime.prefix_cache import PrefixCache, PrefixPath
from submodel.runtime.scheduler import Scheduler, shaping_of
from submodel.runtime.scoring import Score, score

_log = logging.getLogger(__name__)

PIECE = 128  # prompt tokens at once: the longest that others wait, against unpacking the weights once a piece
_PROMPTS = 4  # begun and not yet decoding, each with a cache of its own
_COLUMNS = 256  # the cache grows by so many columns, so that it is seldom moved


@dataclass(eq=False)
class Ticket:
    """A request that is being answered; `cancel` may be called by any thread, at any time.

    Attributes:
        cached: tokens of the prompt whose keys and values were there; final with the first piece.
        prompt_scores: of the prompt's tokens from the second on, if they are scored; final with the first piece.
    """

    request: Request
    emit: Callable[[Piece], None]
    best: int | None
    score_prompt: bool = False
    cancelled: bool = False
    unfinished: set[int] = field(default_factory=set)  # samples that have not ended
    cached: int = 0
    prompt_scores: list[Score] = field(default_factory=list)

    def cancel(self) -> None:
        self.cancelled = True

    def send(self, piece: Piece) -> None:
        """Give a piece to the client; one that is not there any more cancels its request.

        A sample that has ended says nothing more, whatever becomes of its row.
        """
        if piece.sample not in self.unfinished:
            return
        if piece.finish:
            self.unfinished.discard(piece.sample)
        try:
            self.emit(piece)
        except Exception:
            self.cancelled = True

    def end(self, finish: str) -> None:
        """Say that nothing more comes."""
        for sample in sorted(self.unfinished):
            self.send(Piece(sample, "", (), (), finish))


@dataclass(eq=False)
class _Prompt:
    """A prompt on its way into a cache of its own; then `logits` are there, and seeds wait for a row."""

    ticket: Ticket
    cache: SequenceCache
    seeds: deque[int]
    path: PrefixPath = field(default_factory=PrefixPath)
    logits: torch.Tensor | None = None


class _Answer(Sequence):
    """A continuation that belongs to a ticket, which gets its pieces."""

    def __init__(self, loaded: Loaded, ticket: Ticket, sample: int):
        super().__init__(loaded, ticket.request, sample, ticket.send, ticket.best)
        self.ticket = ticket


class ModelThread:
    """A loaded model that answers.

    Args:
        loaded: the model; nobody else uses it meanwhile.
        rows: continuations side by side at most.
        cache_bytes: for keys and values at most; a request that does not fit waits, one that never can is refused. What
            the answers under way do not need keeps the beginnings of prompts.
    """

    def __init__(self, loaded: Loaded, *, rows: int = 16, cache_bytes: int = 1 << 30):
        self.loaded = loaded
        self._rows, self._cache_bytes = rows, cache_bytes
        self._token_bytes = token_bytes(loaded.model)
        shaping_of(loaded)  # refuses, before there is a request, what is not done here
        self._inbox: list[Ticket] = []  # what other threads have submitted; theirs and ours under `_changed`
        self._changed = threading.Condition()
        self._closing = False
        self._newcomers: deque[Ticket] = deque()  # this and all that follows are the model's thread's alone
        self._prompts: deque[_Prompt] = deque()  # the first one is the next to run a piece
        self._ready: deque[_Prompt] = deque()
        self._scheduler: Scheduler | None = None  # while there are rows
        self._prefixes = PrefixCache(cache_bytes)
        self._thread = threading.Thread(target=self._run, name=f"model {loaded.reference}", daemon=True)
        self._thread.start()

    @property
    def context(self) -> int:
        """Tokens of a prompt and its continuation together, at most."""
        longest = self.loaded.base.context or 1 << 30
        return min(longest, self._cache_bytes // self._token_bytes // _COLUMNS * _COLUMNS - 1)

    def submit(
        self,
        request: Request,
        emit: Callable[[Piece], None],
        best: int | None = None,
        score_prompt: bool = False,
    ) -> Ticket:
        """Answer a request.

        Args:
            request: prompt, limits, seeds; with 0 tokens at most, only the prompt is run.
            emit: called by the model's thread with every piece, and to return at once; each sample's last has `finish`.
            best: how many most likely tokens to score beside each one that is taken; None for no scores.
            score_prompt: score the prompt's tokens too; none of it is then taken from earlier prompts.

        Raises:
            SubmodelError: an empty prompt, or more tokens than `context`.
            RuntimeError: closed.
        """
        if not request.prompt or request.max_tokens < 0:
            raise SubmodelError("a prompt needs at least one token, and its continuation none or more")
        if len(request.prompt) + request.max_tokens > self.context:
            raise SubmodelError(
                f"{len(request.prompt)} tokens of prompt and {request.max_tokens} to generate: this model takes "
                f"{self.context} together"
            )
        ticket = Ticket(request, emit, best, score_prompt, unfinished=set(range(len(request.seeds))))
        with self._changed:
            if self._closing:
                raise RuntimeError("closed")
            self._inbox.append(ticket)
            self._changed.notify()
        return ticket

    def close(self) -> None:
        """Cancel all requests, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._busy or self._closing):
                    self._changed.wait()
                self._newcomers.extend(self._inbox)
                self._inbox.clear()
                if self._closing:
                    break
            try:
                self._turn()
            except Exception:  # whatever it was, the next request is to be answered
                _log.exception("%s: a step failed", self.loaded.reference)
                self._fail()
        for ticket in self._tickets():
            ticket.end("cancelled")

    @property
    def _answers(self) -> list[_Answer]:
        """The continuation of each row."""
        return self._scheduler.running if self._scheduler else []  # type: ignore[return-value]

    @property
    def _busy(self) -> bool:
        return bool(self._newcomers or self._prompts or self._ready or self._answers)

    def _tickets(self) -> set[Ticket]:
        holders = [*self._prompts, *self._ready, *self._answers]
        return {holder.ticket for holder in holders} | set(self._newcomers)

    def _fail(self) -> None:
        for ticket in self._tickets():
            ticket.end("error")
        self._newcomers.clear()
        self._prompts.clear()
        self._ready.clear()
        self._free_cache()

    def _turn(self) -> None:
        """One piece of one prompt, newcomers into rows, one step."""
        self._drop_cancelled()
        while self._newcomers and len(self._prompts) + len(self._ready) < _PROMPTS:
            ticket = self._newcomers[0]  # taken away when it is elsewhere: a failure in between ends it too
            seeds = deque(range(len(ticket.request.seeds)))
            self._prompts.append(_Prompt(ticket, one_row(self.loaded, len(ticket.request.prompt)), seeds))
            self._newcomers.popleft()
        if self._prompts:
            self._run_piece(self._prompts.popleft())
        while self._ready and self._start(self._ready[0]):
            if not self._ready[0].seeds:
                self._ready.popleft()
        if self._scheduler and self._answers:
            self._scheduler.step()
        elif not self._busy:
            self._free_cache()

    def _free_cache(self) -> None:
        """Without rows, all memory is for the beginnings of prompts."""
        self._scheduler = None
        self._prefixes.limit(self._cache_bytes)

    def _run_piece(self, prompt: _Prompt) -> None:
        """Prompts take turns, so that a short one does not wait for a long one."""
        cache, tokens = prompt.cache, prompt.ticket.request.prompt
        try:
            self._reuse(prompt)
            start = cache.end
            piece = tokens[start : start + PIECE] if isinstance(cache, KeyValueCache) else tokens
            limit = self.loaded.limit
            more = limit.used_by(prompt.ticket.request.sayable) if limit else None
            if prompt.ticket.score_prompt:
                rows = extend_scored(self.loaded, cache, list(piece), more)
                following = tokens[start + 1 : cache.end + 1]
                best = prompt.ticket.best or 0
                prompt.ticket.prompt_scores += [
                    score(row, token, best) for row, token in zip(rows, following, strict=False)
                ]
                logits = rows[-1:]
            else:
                logits = extend(self.loaded, cache, list(piece), more)
            if isinstance(cache, KeyValueCache) and len(piece) == PIECE and len(prompt.path) * PIECE == start:
                self._prefixes.keep(prompt.path, piece, cache.cut(start, cache.end))
        except Exception:  # this prompt's own trouble
            _log.exception("%s: a prompt failed", self.loaded.reference)
            return prompt.ticket.end("error")
        if cache.end < len(tokens):
            self._prompts.append(prompt)
        else:
            prompt.logits = logits
            self._ready.append(prompt)

    def _reuse(self, prompt: _Prompt) -> None:
        """Take the next pieces that are kept, but never the last one: its logits are needed."""
        cache, tokens = prompt.cache, prompt.ticket.request.prompt
        if prompt.ticket.score_prompt or not isinstance(cache, KeyValueCache):
            return
        while cache.end + PIECE < len(tokens) and len(prompt.path) * PIECE == cache.end:
            states = self._prefixes.find(prompt.path, tokens[cache.end : cache.end + PIECE])
            if states is None:
                return
            cache.paste(states)
            prompt.ticket.cached += PIECE

    def _start(self, prompt: _Prompt) -> bool:
        """Give a prompt's next seed its first token and a row; False while there is no room for it."""
        if not prompt.ticket.request.max_tokens:
            prompt.ticket.send(Piece(prompt.seeds.popleft(), "", (), (), "length"))
            return True
        answer = _Answer(self.loaded, prompt.ticket, prompt.seeds[0])
        scheduler = self._with_room(answer)
        if scheduler is None:
            return False
        assert prompt.logits is not None
        prompt.seeds.popleft()
        scheduler.start(answer, prompt.logits[0], prompt.cache)
        return True

    def _with_room(self, answer: Sequence) -> Scheduler | None:
        """The scheduler with a free row for one more; None while its cache would be too large."""
        running = self._answers
        count = len(running) + 1
        if count > self._rows:
            return None
        columns = -(-(max(other.longest for other in [*running, answer]) + 1) // _COLUMNS) * _COLUMNS
        old = self._scheduler.cache if self._scheduler else None
        if old and count <= old.rows and columns <= old.columns:
            return self._scheduler
        # a larger cache: rows by powers of two, never smaller than it was, within the budget
        rows = min(self._rows, 1 << (count - 1).bit_length())
        if old:
            rows, columns = max(rows, old.rows), max(columns, old.columns)
        while rows * columns * self._token_bytes > self._cache_bytes and rows > count:
            rows -= 1
        if rows * columns * self._token_bytes > self._cache_bytes and running:
            return None
        self._prefixes.limit(self._cache_bytes - rows * columns * self._token_bytes)
        cache = cache_for(self.loaded.model, rows, columns)
        if self._scheduler:
            self._scheduler.move(cache)
        else:
            self._scheduler = Scheduler(self.loaded, cache, alone=True)
        return self._scheduler

    def _drop_cancelled(self) -> None:
        # looked at once: a request that is cancelled meanwhile goes as a whole, in the next turn
        cancelled = {ticket for ticket in self._tickets() if ticket.cancelled}
        if not cancelled:
            return
        for row in reversed(range(len(self._answers))):
            if self._answers[row].ticket in cancelled:
                assert self._scheduler is not None
                self._scheduler.remove(row)
        for waiting in (self._prompts, self._ready):
            for prompt in [prompt for prompt in waiting if prompt.ticket in cancelled]:
                waiting.remove(prompt)
        self._newcomers = deque(ticket for ticket in self._newcomers if ticket not in cancelled)
        for ticket in cancelled:
            ticket.end("cancelled")
