"""A block that is read, and what is done with it: run it dense to observe, decide, run it pruned to go on."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from submodel.base.matrices import Matrix
from submodel.base.workers import Workers
from submodel.walk.observe import Make, Merged, Observer, Statistic, Statistics
from submodel.walk.walked_text import WalkedText


@dataclass(frozen=True)
class Pruned:
    """A matrix, or some rows of it, after pruning.

    Attributes:
        keep: bool mask, True = kept.
        weight: the new weights, of the mask's shape and 0 where dropped; None where the kept weights are unchanged.
    """

    keep: torch.Tensor
    weight: torch.Tensor | None = None


Answer = Callable[[str, torch.Tensor, list[Statistic | None]], Pruned]
"""Matrix name, its weight as stored, the statistics of its inputs (one, or one per expert) -> what is kept of it."""


class Counter:
    """Counts tokens through runs of blocks, or blocks when nothing runs."""

    def __init__(self, progress: Callable[[int, int], Any], blocks: int, per_block: int, start: int):
        self._progress = progress
        self._per_block = per_block
        self._total = blocks * (per_block or 1)
        self._done = start * (per_block or 1)
        self._lock = threading.Lock()
        progress(self._done, self._total)

    def tokens(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)

    def block(self) -> None:
        if not self._per_block:
            self.tokens(1)


@dataclass(frozen=True)
class Block:
    """The block that is read, and what runs it: dense to observe, pruned to go on."""

    index: int
    module: nn.Module
    matrices: list[Matrix]
    device: str
    workers: Workers
    counter: Counter

    def observe(self, text: WalkedText, make: Make) -> Statistics:
        """The statistics of the matrices' inputs, the block being dense."""

        def run(batch: int) -> Statistics:
            hidden = text.read(self.index, *text.batches[batch]).to(self.device)
            weights = text.weights(*text.batches[batch])
            statistics = observer.run(self.module, text.calls[batch][self.index], hidden, weights)
            self.counter.tokens(hidden.shape[0] * hidden.shape[1])
            return statistics

        merged = Merged(make)
        with Observer(self.matrices, merged.make) as observer:
            self.workers.map(lambda batch: merged.add(batch, lambda: run(batch)), range(len(text.batches)))
        return merged.total

    def decide(
        self,
        matrices: Sequence[Matrix],
        weights: dict[str, torch.Tensor],
        statistics: Statistics,
        decide: Answer,
    ) -> dict[str, Pruned]:
        """Prune some matrices, given their weights as stored and the statistics of their inputs."""

        def one(matrix: Matrix) -> Pruned:
            experts = matrix.weight.shape[0] if matrix.weight.dim() == 3 else 1
            seen = [statistics.get((matrix.name, expert)) for expert in range(experts)]
            return decide(matrix.name, weights[matrix.name], seen)

        return {m.name: pruned for m, pruned in zip(matrices, self.workers.map(one, matrices), strict=True)}

    @contextmanager
    def pruned(self, pruned: dict[str, Pruned]) -> Iterator[None]:
        """Run with the pruned matrices in place; the dense ones are put back afterwards."""
        dense = {m.name: m.weight.data for m in self.matrices}
        for matrix in self.matrices:
            result = pruned[matrix.name]
            if result.weight is None:
                matrix.weight.data = matrix.weight.data * result.keep.to(self.device)
            else:
                matrix.weight.data = result.weight.to(self.device, matrix.weight.dtype)
        try:
            yield
        finally:
            for matrix in self.matrices:
                matrix.weight.data = dense[matrix.name]

    def pass_on(self, text: WalkedText, make: Make | None = None) -> Statistics:
        """Take a domain's hidden states through the block; the statistics of its matrices' inputs, if asked for."""

        def run(batch: int, observer: Observer | None = None) -> Statistics:
            start, stop = text.batches[batch]
            hidden = text.read(self.index, start, stop).to(self.device)
            call, statistics = text.calls[batch][self.index], Statistics()
            if observer:
                statistics, out = observer.run_to_end(self.module, call, hidden, text.weights(start, stop))
            else:
                out = call.run(self.module, hidden)
            text.write(self.index + 1, start, out)
            self.counter.tokens(hidden.shape[0] * hidden.shape[1])
            return statistics

        if make is None:
            self.workers.map(run, range(len(text.batches)))
            return {}
        merged = Merged(make)
        with Observer(self.matrices, merged.make) as observer:
            self.workers.map(lambda at: merged.add(at, lambda: run(at, observer)), range(len(text.batches)))
        return merged.total
