"""Requests that come and go while others are answered: continuous batching over one loaded model.

One thread a model. Between two steps of all live sequences it takes newcomers, drops who is cancelled and runs at most
one piece of one prompt, so that a long prompt never holds others up for longer than a piece. Every prompt runs by
itself, in pieces that depend on its length alone, and the native engine computes every row by itself: what a request
is answered does not depend, bit for bit, on who else is there, nor on what was asked before: of a prompt that begins as
others did, whole pieces are taken from `prefixes` instead of being computed again. Families without the engine share a
step through `transformers`, where the number of rows moves the rounding.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from submodel.errors import SubmodelError
from submodel.runtime.forward import end_tokens, extend, layers_of, one_row, step, token_bytes
from submodel.runtime.load import Loaded
from submodel.runtime.prefixes import Path, Prefixes
from submodel.runtime.sequence import Request, Sequence, next_tokens
from submodel.runtime.slots import Slots
from submodel.runtime.stream import TextStream

_log = logging.getLogger(__name__)

PIECE = 128  # prompt tokens at once: the longest that others wait, against unpacking the weights once a piece
_PROMPTS = 4  # begun and not yet decoding, each with a cache of its own
_COLUMNS = 256  # the cache grows by so many columns, so that it is seldom moved


@dataclass(frozen=True)
class Score:
    """Natural logarithms of a token's probability and of the best tokens', before temperature.

    Attributes:
        logprob: of the token that was taken.
        best: (token, logprob), the most likely first.
    """

    logprob: float
    best: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What has come of one continuation since its last piece.

    Attributes:
        sample: the index of its seed.
        text: new text, never part of a stop string or of a character.
        tokens: the ids that were generated.
        scores: one a token, if they were asked for.
        finish: why it ends: "stop", "eos", "length", "cancelled" or "error"; None while it goes on.
    """

    sample: int
    text: str
    tokens: tuple[int, ...]
    scores: tuple[Score, ...] = ()
    finish: str | None = None


@dataclass(eq=False)
class Ticket:
    """A request that is being answered; `cancel` may be called by any thread, at any time.

    Attributes:
        cached: tokens of the prompt whose keys and values were there; final with the first piece.
    """

    request: Request
    emit: Callable[[Piece], None]
    best: int | None
    ends: frozenset[int]
    cancelled: bool = False
    left: set[int] = field(default_factory=set)  # samples that have not ended
    cached: int = 0

    def cancel(self) -> None:
        self.cancelled = True


@dataclass(eq=False)
class _Prompt:
    """A prompt on its way into a cache of its own; then `logits` are there, and seeds wait for a row."""

    ticket: Ticket
    slots: Slots
    waiting: deque[int]
    path: Path = field(default_factory=Path)
    logits: torch.Tensor | None = None


@dataclass(eq=False)
class _Row:
    """A continuation that takes part in the steps."""

    ticket: Ticket
    sequence: Sequence
    text: TextStream
    scores: list[Score] = field(default_factory=list)
    sent: int = 0

    @property
    def needs(self) -> int:
        """Columns that it may grow to."""
        return len(self.ticket.request.prompt) + self.ticket.request.max_tokens


class Live:
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
        self._ends = end_tokens(loaded)
        self._inbox: deque[Ticket] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._prompts: deque[_Prompt] = deque()  # the first one is the next to run a piece
        self._ready: deque[_Prompt] = deque()
        self._live: list[_Row] = []
        self._slots: Slots | None = None
        self._prefixes = Prefixes(cache_bytes)
        self._thread = threading.Thread(target=self._run, name=f"live {loaded.reference}", daemon=True)
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
    ) -> Ticket:
        """Answer a request.

        Args:
            request: prompt, limits, seeds.
            emit: called by the model's thread with every piece, and to return at once; each sample's last has `finish`.
            best: how many most likely tokens to score beside each one that is taken; None for no scores.

        Raises:
            SubmodelError: an empty prompt, or more tokens than `context`.
            RuntimeError: closed.
        """
        if not request.prompt or request.max_tokens < 1:
            raise SubmodelError("a prompt needs at least one token, and so does its continuation")
        if len(request.prompt) + request.max_tokens > self.context:
            raise SubmodelError(
                f"{len(request.prompt)} tokens of prompt and {request.max_tokens} to generate: this model takes "
                f"{self.context} together"
            )
        ticket = Ticket(request, emit, best, self._ends | request.ends, left=set(range(len(request.seeds))))
        with self._news:
            if self._closing:
                raise RuntimeError("closed")
            self._inbox.append(ticket)
            self._news.notify()
        return ticket

    def close(self) -> None:
        """Cancel what is left, and end the thread."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        while True:
            with self._news:
                while not (self._inbox or self._busy or self._closing):
                    self._news.wait()
                if self._closing:
                    break
            try:
                self._turn()
            except Exception:  # whatever it was, the next request is to be answered
                _log.exception("%s: a step failed", self.loaded.reference)
                self._fail()
        for ticket in self._tickets():
            self._end(ticket, "cancelled")

    @property
    def _busy(self) -> bool:
        return bool(self._prompts or self._ready or self._live)

    def _tickets(self) -> set[Ticket]:
        held = [*self._prompts, *self._ready, *self._live]
        return {holder.ticket for holder in held} | set(self._inbox)

    def _fail(self) -> None:
        for ticket in self._tickets():
            self._end(ticket, "error")
        self._inbox.clear()
        self._prompts.clear()
        self._ready.clear()
        self._live.clear()
        self._let_go()

    def _turn(self) -> None:
        """One piece of one prompt, newcomers into rows, one step."""
        self._drop_cancelled()
        while self._inbox and len(self._prompts) + len(self._ready) < _PROMPTS:
            ticket = self._inbox.popleft()
            seeds = deque(range(len(ticket.request.seeds)))
            self._prompts.append(_Prompt(ticket, one_row(self.loaded, len(ticket.request.prompt)), seeds))
        if self._prompts:
            self._run_piece(self._prompts.popleft())
        while self._ready and self._place(self._ready[0]):
            if not self._ready[0].waiting:
                self._ready.popleft()
        if self._live:
            assert self._slots is not None
            logits = step(self.loaded, self._slots, [row.sequence.tokens[-1] for row in self._live], alone=True)
            tokens = next_tokens(logits, [row.sequence for row in self._live])
            for at in reversed(range(len(tokens))):
                if self._took(self._live[at], tokens[at], logits[at]):
                    self._remove(at)
        elif not self._busy:
            self._let_go()

    def _let_go(self) -> None:
        self._slots = None
        self._prefixes.limit(self._cache_bytes)

    def _run_piece(self, prompt: _Prompt) -> None:
        """Prompts take turns, so that a short one does not wait for a long one."""
        slots, tokens = prompt.slots, prompt.ticket.request.prompt
        try:
            self._reuse(prompt)
            start = slots.end
            piece = tokens[start : start + PIECE]
            logits = extend(self.loaded, slots, list(piece))
            if len(piece) == PIECE and len(prompt.path) * PIECE == start:
                self._prefixes.keep(prompt.path, piece, slots.cut(start, slots.end))
        except Exception:  # this prompt's own trouble
            _log.exception("%s: a prompt failed", self.loaded.reference)
            return self._end(prompt.ticket, "error")
        if slots.end < len(tokens):
            self._prompts.append(prompt)
        else:
            prompt.logits = logits
            self._ready.append(prompt)

    def _reuse(self, prompt: _Prompt) -> None:
        """Take the next pieces that are kept, but never the last one: its logits are needed."""
        slots, tokens = prompt.slots, prompt.ticket.request.prompt
        while slots.end + PIECE < len(tokens) and len(prompt.path) * PIECE == slots.end:
            states = self._prefixes.find(prompt.path, tokens[slots.end : slots.end + PIECE])
            if states is None:
                return
            slots.paste(states)
            prompt.ticket.cached += PIECE

    def _place(self, prompt: _Prompt) -> bool:
        """Give a prompt's next seed its first token and a row; False while there is no room for it."""
        ticket, request = prompt.ticket, prompt.ticket.request
        sample = prompt.waiting[0]
        generator = torch.Generator().manual_seed(request.seeds[sample])
        row = _Row(
            ticket,
            Sequence(request, sample, generator),
            TextStream(self.loaded.tokenizer, request.prompt, request.stops),
        )
        if not self._make_room(row):
            return False
        assert prompt.logits is not None and self._slots is not None
        prompt.waiting.popleft()
        [token] = next_tokens(prompt.logits, [row.sequence])
        if not self._took(row, token, prompt.logits[0]):
            self._slots.add(prompt.slots, 0)
            self._live.append(row)
        return True

    def _make_room(self, row: _Row) -> bool:
        """A cache with a free row for one more; False while it would be too large."""
        count = len(self._live) + 1
        if count > self._rows:
            return False
        columns = -(-(max(other.needs for other in [*self._live, row]) + 1) // _COLUMNS) * _COLUMNS
        old = self._slots
        if old and count <= old.rows and columns <= old.columns:
            return True
        rows = min(self._rows, 1 << (count - 1).bit_length())
        if old:
            rows, columns = max(rows, old.rows), max(columns, old.columns)
        while rows * columns * self._token_bytes > self._cache_bytes and rows > count:
            rows -= 1
        if rows * columns * self._token_bytes > self._cache_bytes and self._live:
            return False
        self._prefixes.limit(self._cache_bytes - rows * columns * self._token_bytes)
        self._slots = Slots(layers_of(self.loaded.model), rows, columns)
        for index in range(len(self._live)):
            assert old is not None
            self._slots.add(old, index)
        return True

    def _took(self, row: _Row, token: int, logits: torch.Tensor) -> bool:
        """Send what a token adds; True if it was the last one."""
        sequence, ticket = row.sequence, row.ticket
        sequence.tokens.append(token)
        if ticket.best is not None:
            row.scores.append(_score(logits, token, ticket.best))
        text, stopped = ("", False) if token in ticket.ends else row.text.put(token)
        finish = None
        if stopped:
            finish = "stop"
        elif token in ticket.ends:
            finish = "eos"
        elif len(sequence.tokens) >= ticket.request.max_tokens:
            finish = "length"
        if finish in ("eos", "length"):
            text += row.text.end()
        if text or row.scores or finish:
            new = tuple(sequence.tokens[row.sent :])
            row.sent = len(sequence.tokens)
            scores, row.scores = tuple(row.scores), []
            if finish:
                ticket.left.discard(sequence.sample)
            _send(ticket, Piece(sequence.sample, text, new, scores, finish))
        return finish is not None

    def _remove(self, at: int) -> None:
        assert self._slots is not None
        self._slots.remove(at)
        self._live[at] = self._live[-1]
        self._live.pop()

    def _drop_cancelled(self) -> None:
        for at in reversed(range(len(self._live))):
            if self._live[at].ticket.cancelled:
                self._end(self._live[at].ticket, "cancelled")
                self._remove(at)
        for waiting in (self._prompts, self._ready):
            for prompt in [prompt for prompt in waiting if prompt.ticket.cancelled]:
                self._end(prompt.ticket, "cancelled")
                waiting.remove(prompt)
        for ticket in [ticket for ticket in list(self._inbox) if ticket.cancelled]:
            self._end(ticket, "cancelled")
            self._inbox.remove(ticket)

    def _end(self, ticket: Ticket, finish: str) -> None:
        """Tell a request that nothing more comes."""
        for sample in sorted(ticket.left):
            _send(ticket, Piece(sample, "", (), (), finish))
        ticket.left.clear()


def _send(ticket: Ticket, piece: Piece) -> None:
    try:
        ticket.emit(piece)
    except Exception:  # who asked is gone
        ticket.cancelled = True


def _score(logits: torch.Tensor, token: int, best: int) -> Score:
    logprobs = logits.float().log_softmax(-1)
    found = logprobs.topk(min(best, len(logprobs)))
    return Score(float(logprobs[token]), tuple(zip(found.indices.tolist(), found.values.tolist(), strict=True)))
