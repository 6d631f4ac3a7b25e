"""The one loop that decodes: continuations join it, take their steps side by side, and leave when they end.

`generate` runs one continuation in it, `generate_batch` works off a list of prompts, `ModelThread` answers requests
that come and go. They differ in who joins when; a step, the next token and when a continuation ends are the same.
"""

import torch

from submodel.runtime.continuation import Sequence, next_tokens
from submodel.runtime.forward import SequenceCache, end_tokens, step
from submodel.runtime.load import Loaded
from submodel.runtime.shaping import Shaping


class Scheduler:
    """Continuations that share every step of a model.

    Args:
        loaded: the model.
        cache: room for them.
        alone: with a native engine, what a row computes does not depend, bit for bit, on who else is there.

    Attributes:
        cache: keys and values, a row each.
        running: the continuation of each row.
    """

    def __init__(self, loaded: Loaded, cache: SequenceCache, *, alone: bool = False):
        self.cache = cache
        self.running: list[Sequence] = []
        self._loaded, self._alone = loaded, alone
        self._shaping = shaping_of(loaded)

    def start(
        self, sequence: Sequence, logits: torch.Tensor, source: SequenceCache | None = None, row: int = 0
    ) -> None:
        """Take a continuation's first token; unless it ends there, it joins.

        Args:
            sequence: without a token yet.
            logits: (vocabulary,), after its prompt.
            source, row: where its prompt's keys and values are, to be copied; None if they are this cache's next row.
        """
        [token] = next_tokens(self._shaping.rows(logits[None], [sequence]), [sequence])
        sequence.take(token, logits)
        if sequence.finish is None:
            if source is not None:
                self.cache.add(source, row)
            self.running.append(sequence)

    def step(self) -> list[Sequence]:
        """One more token for everyone; returns those that have ended with it, which have left."""
        more = [s.more for s in self.running]
        logits = step(self._loaded, self.cache, [s.tokens[-1] for s in self.running], alone=self._alone, more=more)
        tokens = next_tokens(self._shaping.rows(logits, self.running), self.running)
        ended: list[Sequence] = []
        for row in reversed(range(len(tokens))):  # the last row takes the place of one that leaves
            sequence = self.running[row]
            sequence.take(tokens[row], logits[row])
            if sequence.finish is not None:
                ended.append(sequence)
                self.remove(row)
        return ended

    def remove(self, row: int) -> None:
        """Let a continuation leave; the last row takes its place."""
        self.cache.remove(row)
        self.running[row] = self.running[-1]
        self.running.pop()

    def move(self, cache: SequenceCache) -> None:
        """Go on in another, empty cache."""
        for row in range(len(self.running)):
            cache.add(self.cache, row)
        self.cache = cache


def shaping_of(loaded: Loaded) -> Shaping:
    """How a model's generation_config.json has tokens chosen. Raises SubmodelError for what is not done here."""
    return Shaping(loaded.base.generation_settings, loaded.reference, end_tokens(loaded))
