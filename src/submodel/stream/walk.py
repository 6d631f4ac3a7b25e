"""The walk: every block is read once; each domain runs it dense, prunes it, and runs it pruned.

This is the order of Wanda and of the paper: the inputs of a block are those that the pruned blocks before it
produce, its statistics are gathered while it is still dense. In memory are one batch of hidden states a core, the
block, and a pruned copy of it. A journal is written after every block, so the same walk started again goes on there.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from submodel.arithmetic import quicken
from submodel.calibration import Samples
from submodel.models import Base, Matrix, blocks_of, matrices_of
from submodel.stream.domain import Domain, read_journal, record, write_journal
from submodel.stream.observe import Found, Make, Merged, Observer, Statistic
from submodel.workers import Workers


@dataclass(frozen=True)
class Pruned:
    """A matrix, or some rows of it, after pruning.

    Attributes:
        keep: bool mask, True = kept.
        weight: the new weights, of the mask's shape and 0 where dropped; None where the kept weights are unchanged.
    """

    keep: torch.Tensor
    weight: torch.Tensor | None = None


Decide = Callable[[str, str, torch.Tensor, list[Statistic | None] | None], Pruned]
"""Domain, matrix name, its weight as stored, its statistics (one, or one per expert) -> what is left of it."""


@dataclass(frozen=True)
class Afterwards:
    """What becomes of a block when it has been run pruned; the hidden states it gave stay as they are.

    Attributes:
        make: an empty statistic for an input of so many columns; the inputs are those in the pruned block.
        decide: matrix name, its weight as stored, what the pruning left, the statistics -> what is kept of it.
    """

    make: Make
    decide: Callable[[str, torch.Tensor, Pruned, list[Statistic | None]], Pruned]


Keep = Callable[[int, dict[str, dict[str, Pruned]]], None]
"""Block index, domain -> matrix name -> what is left: called once a block, before the walk counts it as done."""

_BATCH_TOKENS = 512


def walk(
    base: Base,
    domains: Sequence[Samples],
    *,
    make: Make | None,
    decide: Decide,
    keep: Keep,
    work: Path,
    dtype: torch.dtype,
    afterwards: Afterwards | None = None,
    device: str = "cpu",
    batch_tokens: int = _BATCH_TOKENS,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> int:
    """Prune every block of `base` for every domain.

    Args:
        base: the model; its weights are read block by block.
        domains: token samples, all with different names.
        make: an empty statistic for an input of so many columns; None runs no block and decides on weights alone.
        decide: the pruning method: weight and statistics -> mask, and new weights if it makes any.
        keep: takes a block's pruned matrices.
        work: a folder for hidden states and the journal; the caller removes it in the end.
        afterwards: with `make` alone: what is kept of a block instead, once it has run.
        dtype: of the arithmetic; masks are decided on the weights as stored.
        device: where blocks run.
        batch_tokens: about how many tokens run at once in one worker (a core).
        progress: told tokens done and in all; a token counts once per run of a block.

    Returns:
        The number of blocks that an earlier, unfinished walk in `work` had done.

    Raises:
        SubmodelError: the model cannot be walked.
    """
    with torch.inference_mode(), ExitStack() as stack:
        model = base.skeleton(dtype)
        if device == "cpu":
            quicken(model)
        prefix, blocks = blocks_of(model)
        targets = base.targets(model)
        plans = [Domain(d, model, work / d.name, dtype, batch_tokens, stack) for d in domains] if make else []
        parts = [part for plan in plans for part in plan.parts]
        start = read_journal(work, parts)
        record(base, model, parts, device, fresh=start == 0)
        if start:
            blocks[0].to_empty(device="meta")
        # masks are decided on the stored weights: read apart when the arithmetic has another dtype
        stored = model if base.dtype == dtype else base.skeleton(base.dtype)
        workers = stack.enter_context(Workers(device))
        tell = _Counter(progress, len(blocks), sum(2 * part.tokens for part in parts), start)
        for index in range(start, len(blocks)):
            name = f"{prefix}.{index}"
            block = blocks[index]
            if any(parameter.is_meta for parameter in block.parameters()):
                base.fill(model, lambda target, at=name: target.startswith(f"{at}."), targets)
            if stored is not model:
                base.fill(stored, lambda target, at=name: target.startswith(f"{at}."), targets)
            if index + 1 < len(blocks):
                following = f"{prefix}.{index + 1}."
                base.source.prefetch([key for key, target in targets.items() if target.startswith(following)])
            weights = {m.name: m.weight for m in matrices_of(stored.get_submodule(name), name)}
            pruned: dict[str, dict[str, Pruned]] = {}
            if make is None:
                pruned = {d.name: {n: decide(d.name, n, w, None) for n, w in weights.items()} for d in domains}
            else:
                here = _Block(index, block.to(device), matrices_of(block, name), device, workers, tell)
                for plan in plans:
                    seen = _together([here.observe(part, make) for part in plan.parts])
                    left = here.decide(weights, seen, partial(decide, plan.name))
                    del seen  # a Gram matrix may be large
                    with here.pruned(left):
                        passed = [here.pass_on(part, afterwards.make if afterwards else None) for part in plan.parts]
                    if afterwards:
                        left = here.decide(weights, _together(passed), partial(_again, afterwards, left))
                    del passed
                    pruned[plan.name] = left
            keep(index, pruned)
            write_journal(work, index + 1, parts)
            tell.block()
            block.to_empty(device="meta")
            if stored is not model:
                stored.get_submodule(name).to_empty(device="meta")
        return start


class _Counter:
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
class _Block:
    """The block that is read, and what runs it: dense to observe, pruned to go on."""

    index: int
    module: nn.Module
    matrices: list[Matrix]
    device: str
    workers: Workers
    tell: _Counter

    def observe(self, plan: Domain, make: Make) -> Found:
        """The statistics of the matrices' inputs, the block being dense."""

        def run(batch: int) -> Found:
            hidden = plan.read(self.index, *plan.batches[batch]).to(self.device)
            weights = plan.weights(*plan.batches[batch])
            found = observer.run(self.module, plan.calls[batch][self.index], hidden, weights)
            self.tell.tokens(hidden.shape[0] * hidden.shape[1])
            return found

        merged = Merged()
        with Observer(self.matrices, make) as observer:
            self.workers.map(lambda batch: merged.add(batch, lambda: run(batch)), range(len(plan.batches)))
        return merged.whole

    def decide(
        self,
        weights: dict[str, torch.Tensor],
        found: Found,
        decide: Callable[[str, torch.Tensor, list[Statistic | None]], Pruned],
    ) -> dict[str, Pruned]:
        """What is left of each matrix, from its name, its weights as stored and the statistics of its inputs."""

        def one(matrix: Matrix) -> Pruned:
            experts = matrix.weight.shape[0] if matrix.weight.dim() == 3 else 1
            seen = [found.get((matrix.name, expert)) for expert in range(experts)]
            return decide(matrix.name, weights[matrix.name], seen)

        return {m.name: left for m, left in zip(self.matrices, self.workers.map(one, self.matrices), strict=True)}

    @contextmanager
    def pruned(self, pruned: dict[str, Pruned]) -> Iterator[None]:
        """Put what is left of the matrices in their places, for a while."""
        dense = {m.name: m.weight.data for m in self.matrices}
        for matrix in self.matrices:
            left = pruned[matrix.name]
            if left.weight is None:
                matrix.weight.data = matrix.weight.data * left.keep.to(self.device)
            else:
                matrix.weight.data = left.weight.to(self.device, matrix.weight.dtype)
        try:
            yield
        finally:
            for matrix in self.matrices:
                matrix.weight.data = dense[matrix.name]

    def pass_on(self, plan: Domain, make: Make | None = None) -> Found:
        """Take a domain's hidden states through the block; the statistics of its matrices' inputs, if asked for."""

        def run(batch: int, observer: Observer | None = None) -> Found:
            start, stop = plan.batches[batch]
            hidden = plan.read(self.index, start, stop).to(self.device)
            call, found = plan.calls[batch][self.index], Found()
            if observer:
                found, out = observer.run_whole(self.module, call, hidden, plan.weights(start, stop))
            else:
                out = call.run(self.module, hidden)
            plan.write(self.index + 1, start, out)
            self.tell.tokens(hidden.shape[0] * hidden.shape[1])
            return found

        merged = Merged()
        if make is None:
            self.workers.map(run, range(len(plan.batches)))
        else:
            with Observer(self.matrices, make) as observer:
                self.workers.map(lambda at: merged.add(at, lambda: run(at, observer)), range(len(plan.batches)))
        return merged.whole


def _again(
    afterwards: Afterwards, left: dict[str, Pruned], name: str, weight: torch.Tensor, seen: list[Statistic | None]
) -> Pruned:
    return afterwards.decide(name, weight, left[name], seen)


def _together(found: list[Found]) -> Found:
    """The statistics of a text, those of its one-token samples added if it has any; shared ones once."""
    whole, *openings = found
    for other in openings:
        for one, more in {id(whole[key]): (whole[key], other[key]) for key in whole if key in other}.values():
            one.add_openings(more)
    return whole
