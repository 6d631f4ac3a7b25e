"""How far an extraction has come: told to whoever waits, and to "auto", which may yet take a quicker method."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submodel.calibration import Samples
from submodel.prune.auto import Choice, Pace
from submodel.prune.distil import steps_of

_DISTIL_RUNS = 4  # of a block, that a token of `distil` costs: dense, masked, and twice as much for the gradient


class Watch:
    """Adds up the passes of the walk and, after them, the tokens of `distil`, as runs of blocks.

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

    def begin(self, folder: Path, blocks: int, passes: int, later: Sequence[Samples]) -> None:
        """The passes over the blocks begin; `later` is what `distil` reads after them, `folder` keeps the choice."""
        self._folder, self._passes = folder, passes
        self._runs = _DISTIL_RUNS * blocks
        self._later = self._runs * sum(len(domain.tokens) for domain in later)
        steps = sum(len(steps_of(domain)) for domain in later)
        self._pace = Pace(self.choice, steps or blocks, self._started) if self.choice else None
        if self.choice and self.choice.estimates:
            self.choice.note(folder)

    def walk(self, number: int) -> Callable[[int, int], None]:
        """What to tell the pass of this number, from 0."""

        def tell(done: int, total: int) -> None:
            if number == self._passes - 1 and not self._later:
                self._unit()
            self._done, self._total = number * total + done, self._passes * total + self._later
            self._progress(self._done, self._total)

        return tell

    def block(self, index: int) -> None:
        """A block of the last pass is done."""
        if index == 0 and not self._later:
            self._judge()

    def step(self, tokens: int) -> None:
        """So many more tokens of `later` are done; 0 before the first step."""
        self._done += self._runs * tokens
        self._progress(self._done, self._total)
        self._judge()
        self._unit()

    def _unit(self) -> None:
        if self._pace:
            self._pace.begin()

    def _judge(self) -> None:
        if self._pace:
            self._pace.judge()
            if self._pace.choice is not self.choice:
                self.choice = self._pace.choice
                self.choice.note(self._folder)
