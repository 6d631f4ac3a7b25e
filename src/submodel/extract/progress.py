"""How far an extraction has come: told to whoever waits, and to "auto", which may yet take a quicker method."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submodel.calibration import Samples
from submodel.extract.auto import Choice, Pace
from submodel.prune.learn.distil import steps_of
from submodel.prune.scores.score import Method

_GRADIENT_RUNS = 4  # of a block, that a token of gradients costs: dense, masked, and twice as much for the gradient
_WALK_RUNS = 2


def _tokens(domains: Sequence[Samples], openings: bool = True) -> int:
    return sum(len(d.tokens) + (len(d.openings) if openings and d.openings is not None else 0) for d in domains)


def _walked(domains: Sequence[Samples], paired: bool) -> int:
    """The tokens whose hidden states a walk takes along."""
    return _tokens(domains) + (_tokens(domains, openings=False) if paired else 0)


class Watch:
    """Adds up gradients of an allocation, passes of the walk, gradients of `distil` and a last walk, as runs of blocks.

    Args:
        progress: told tokens done and in all; a token counts once per run of a block.
        choice: what "auto" has chosen; None where the method was given.
        started: time.monotonic() when the extraction began.

    `block` and `step` raise OverBudget when the method of `choice` will take too long.
    """

    def __init__(self, progress: Callable[[int, int], Any], choice: Choice | None, started: float):
        self.choice = choice
        self._progress, self._started = progress, started
        self._done = self._total = 0

    @property
    def seconds(self) -> float:
        """Since the extraction began."""
        return time.monotonic() - self._started

    def begin(
        self,
        folder: Path,
        blocks: int,
        before: int,
        walks: Sequence[Sequence[Samples]],
        later: Sequence[Samples],
        last: Sequence[Samples],
        method: Method,
    ) -> None:
        """The work begins.

        Args:
            folder: keeps the choice.
            blocks: of the model.
            before: tokens that gradients are taken of for an allocation.
            walks: what each pass of the walk reads.
            later: what `distil` reads after them.
            last: what a walk reads that fits the kept weights in the end, or puts them on a grid.
            method: says in which of the walks the dense model goes along.
        """
        self._folder, self._later = folder, bool(later)
        self._runs = _GRADIENT_RUNS * blocks
        steps = sum(len(steps_of(domain)) for domain in later)
        self._ends = [self._runs * before]
        for number, walked in enumerate(walks, 1):
            twice = method.paired and number == len(walks)
            self._ends.append(self._ends[-1] + _WALK_RUNS * blocks * _walked(walked, twice))
        self._moved = self._ends[-1] + self._runs * _tokens(later)
        self._total = self._moved + _WALK_RUNS * blocks * _walked(last, method.fits_at_last)
        self._pace = Pace(self.choice, steps or blocks, self._started) if self.choice else None
        if self.choice and self.choice.estimates:
            self.choice.note(folder)

    def walk(self, number: int) -> Callable[[int, int], None]:
        """What to tell the pass of this number, from 0."""

        def tell(done: int, _: int) -> None:
            if number == len(self._ends) - 2 and not self._later:
                self._unit()
            self._tell(self._ends[number] + done)

        return tell

    def block(self, index: int) -> None:
        """A block of the last pass is done."""
        if index == 0 and not self._later:
            self._judge()

    def gradients(self, tokens: int) -> None:
        """The gradients of so many more tokens are taken, before the walk or after it."""
        self._tell(self._done + self._runs * tokens)

    def step(self, tokens: int) -> None:
        """So many more tokens of `later` are done, a step; 0 before the first."""
        self.gradients(tokens)
        self._judge()
        self._unit()

    def refit(self, done: int, _: int) -> None:
        """The last walk has come so far."""
        self._tell(self._moved + done)

    def _tell(self, done: int) -> None:
        self._done = done
        self._progress(done, self._total)

    def _unit(self) -> None:
        if self._pace:
            self._pace.begin()

    def _judge(self) -> None:
        if self._pace:
            self._pace.judge()
            if self._pace.choice is not self.choice:
                self.choice = self._pace.choice
                self.choice.note(self._folder)
