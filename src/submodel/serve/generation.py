"""One client's request on its way through a model, as pieces for the event loop.

The model's thread only ever appends to a queue here, bounded by the request's own tokens: a client that reads slowly
costs its own answer's memory and holds nobody up. When the last sample has ended, whoever reads or not, the model is
given back.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from submodel.runtime import Request
from submodel.runtime.continuation import Piece
from submodel.runtime.model_thread import ModelThread, Ticket
from submodel.runtime.scoring import Score
from submodel.runtime.text import Prompt
from submodel.serve.refusal import Refusal


class Generation:
    """Continuations of one or several prompts; choice i * n + j is sample j of prompt i.

    Args:
        model: that generates.
        done: called once in the event loop when nothing more will be generated.
        answer_s: for everything.
        grammar_param: of the request, that asked for a grammar.
    """

    def __init__(self, model: ModelThread, done: Callable[[], None], answer_s: float, grammar_param: str | None = None):
        self._model, self._done = model, done
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + answer_s
        self._answer_s, self._grammar_param = answer_s, grammar_param
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._unread = 0  # choices whose end nobody has read
        self._open = 0  # choices that have not ended; all may have, before anyone reads
        self.prompt_tokens = self.completion_tokens = 0
        self._began = self._loop.time()
        self._first = self._last = 0.0

    def start(
        self, prompts: list[Prompt], template: Request, top_logprobs: int | None, score_prompts: bool = False
    ) -> None:
        """Submit the prompts, each with the limits and seeds of `template`; `done` is called even if one is refused."""
        n = len(template.seeds)
        self._open = self._unread = len(prompts) * n
        self.prompt_tokens = sum(len(prompt.tokens) for prompt in prompts)
        try:
            for index, prompt in enumerate(prompts):
                request = replace(template, prompt=prompt.tokens, ends=prompt.ends)
                emit = self._emitter(index * n)
                self._tickets.append(self._model.submit(request, emit, top_logprobs, score_prompts))
        except BaseException:
            self.cancel()
            self._ended((len(prompts) - len(self._tickets)) * n)
            raise

    @property
    def cached_tokens(self) -> int:
        """Of the prompts, what had been computed for earlier ones."""
        return sum(ticket.cached for ticket in self._tickets)

    def prompt_scores(self, index: int) -> list[Score]:
        """Of a prompt's tokens from the second on; there with its first piece, if prompts are scored."""
        return self._tickets[index].prompt_scores

    @property
    def first_s(self) -> float | None:
        """From the start to the first token; None without one."""
        return self._first - self._began if self.completion_tokens else None

    @property
    def per_token_s(self) -> float | None:
        """Between two tokens of a choice, about; None where there is one at most."""
        choices = sum(len(ticket.request.seeds) for ticket in self._tickets)
        if self.completion_tokens <= choices:
            return None
        return (self._last - self._first) * choices / (self.completion_tokens - choices)

    def cancel(self) -> None:
        """Generate no more."""
        for ticket in self._tickets:
            ticket.cancel()

    async def __aiter__(self) -> AsyncIterator[list[Piece]]:
        """What has come since, one piece a choice at most, until all choices have ended.

        Raises:
            Refusal: the model failed (500), the grammar could not be kept to (400), or it took too long (503).
        """
        try:
            while self._unread:
                try:
                    async with asyncio.timeout_at(self._deadline):
                        pieces = [await self._pieces.get()]
                except TimeoutError as error:
                    raise Refusal(
                        503, f"the answer took over {self._answer_s:g} s: ask for fewer tokens", "timeout"
                    ) from error
                while not self._pieces.empty():
                    pieces.append(self._pieces.get_nowait())
                if any(piece.finish == "error" for piece in pieces):
                    raise Refusal(500, "the model failed on this request", "model_failed")
                if any(piece.finish == "grammar" for piece in pieces):
                    param = self._grammar_param
                    raise Refusal(
                        400,
                        f"{param}: the model cannot keep to that: give something simpler",
                        "unsupported_grammar",
                        param,
                    )
                if any(piece.finish == "cancelled" for piece in pieces):
                    raise Refusal(503, "the server is stopping", "stopping", retry_after_s=5)
                self._unread -= sum(piece.finish is not None for piece in pieces)
                yield _merged(pieces)
        finally:
            self.cancel()

    def _emitter(self, first: int) -> Callable[[Piece], None]:
        def emit(piece: Piece) -> None:
            self._loop.call_soon_threadsafe(self._take, replace(piece, sample=first + piece.sample))

        return emit

    def _take(self, piece: Piece) -> None:
        if piece.tokens:
            self._last = self._loop.time()
            self._first = self._first if self.completion_tokens else self._last
        self.completion_tokens += len(piece.tokens)
        self._pieces.put_nowait(piece)
        if piece.finish:
            self._ended(1)

    def _ended(self, choices: int) -> None:
        self._open -= choices
        if not self._open and choices:
            self._done()


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Pieces of the same choice as one."""
    merged: dict[int, Piece] = {}
    for piece in pieces:
        before = merged.get(piece.sample)
        merged[piece.sample] = (
            piece
            if before is None
            else Piece(
                piece.sample,
                before.text + piece.text,
                before.tokens + piece.tokens,
                before.scores + piece.scores,
                piece.finish,
                piece.likelihood,
            )
        )
    return list(merged.values())
