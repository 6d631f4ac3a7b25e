"""`--method auto`: the best mask-only method that memory and a time budget allow, judged by how it begins.

Best first (docs/methods.md has the figures): `wanda+distil`, which wins back most of what Wanda loses and needs the
whole model in memory; `swaps`, whose perplexity on text like the calibration's is lower than Wanda's; and `wanda`,
which takes the least time. The best that memory holds is begun. When its first block, or its first step, is done, every
one is taken to cost as much; if that ends past the budget, it is given up and the next method takes its place.

Gradients come with sparsity spread by them: `marginal`, or, where time counts, `rows`, which is a fraction of its work.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from submodel.base.files import write_json
from submodel.errors import SubmodelError, unknown_name
from submodel.prune import METHODS
from submodel.prune.allocate.allocation import UNIFORM
from submodel.prune.sparsity import Pattern

AUTO = "auto"
CANDIDATES = ("wanda+distil", "swaps", "wanda")
_NOTE = "auto.json"


class OverBudget(Exception):
    """The walk under way will take `seconds` in all, which is longer than it may."""

    def __init__(self, seconds: float):
        super().__init__(f"{seconds:.0f} seconds")
        self.seconds = seconds


@dataclass(frozen=True)
class Choice:
    """What was decided so far.

    Attributes:
        minutes: the budget; None for any time.
        method: the candidate that is tried.
        estimates: candidate -> seconds of the whole that its beginning let expect, of those that were begun.
    """

    minutes: float | None
    method: str
    estimates: dict[str, float] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """The method and the reason, in one line."""
        if self.minutes is None:
            return f"{self.method}, the best mask-only method that fits; --minutes M bounds its time"
        over = [name for name in self.estimates if CANDIDATES.index(name) < CANDIDATES.index(self.method)]
        told = [f"{name} would take about {_in_minutes(self.estimates[name])}" for name in over]
        if self.method in self.estimates:
            told.append(f"it takes about {_in_minutes(self.estimates[self.method])}")
        return f"{self.method}: {', '.join(told) or 'begun earlier'}, and {self.minutes:g} minutes are given"

    def following(self, seconds: float) -> "Choice":
        """The next candidate, this one having been estimated at more than the budget."""
        return replace(self.estimated(seconds), method=CANDIDATES[CANDIDATES.index(self.method) + 1])

    def estimated(self, seconds: float) -> "Choice":
        """With this candidate's estimate."""
        return replace(self, estimates={**self.estimates, self.method: round(seconds, 1)})

    def note(self, folder: Path) -> None:
        """Leave it in the folder of a walk, for a command that goes on there."""
        write_json(folder / _NOTE, {"minutes": self.minutes, "estimates": self.estimates})

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {"minutes": self.minutes, "estimates": self.estimates, "why": self.why}


def noted(folder: Path, method: str, minutes: float | None) -> Choice | None:
    """What an earlier command with this budget had decided when it walked in `folder` with `method`."""
    file = folder / _NOTE
    found = json.loads(file.read_text()) if file.is_file() else {}
    return Choice(minutes, method, found["estimates"]) if found and found["minutes"] == minutes else None


def check_method(method: str, minutes: float | None = None) -> None:
    """Raises SubmodelError for a method that is neither in METHODS nor AUTO, or minutes that bound nothing."""
    if method not in METHODS and method != AUTO:
        raise unknown_name("method", method, [*METHODS, AUTO])
    if minutes is not None and method != AUTO:
        raise SubmodelError(
            f"--minutes {minutes:g}: it is {AUTO} that chooses by time: give --method {AUTO}, or no time"
        )
    if minutes is not None and not minutes > 0:
        raise SubmodelError(f"--minutes {minutes:g}: give a time above 0")


def check_rate(method: str, rate: float | None) -> None:
    """Raises SubmodelError for a rate that moves nothing or everything, or one of a method that does not distil."""
    if rate is not None and not (0 < rate < 1 and distils(method)):
        raise SubmodelError(f"rate {rate:g} with {method}: give METHOD+distil a rate between 0 and 1, others none")


def distils(method: str) -> bool:
    """Whether a method moves masks by gradients; AUTO only may."""
    return method != AUTO and METHODS[method].distilled


def needs_text(method: str, grid: str | None = None) -> bool:
    """Whether a method, or AUTO, looks at a domain's text; rounding to a grid always does."""
    return method == AUTO or grid is not None or METHODS[method].observes


def allocation_for(method: str, minutes: float | None, pattern: Pattern) -> str:
    """How AUTO spreads the sparsity with one of its methods: a key of ALLOCATIONS."""
    if pattern.m or not METHODS[method].distilled:
        return UNIFORM
    return "marginal" if minutes is None else "rows"


class Pace:
    """Tells from the first block of a walk, or the first step of gradients, how long the whole will take.

    Args:
        choice: what is tried.
        units: blocks, or steps, of the whole.
        started: time.monotonic() when the extraction began.
        clock: time.monotonic, but for tests.
    """

    def __init__(self, choice: Choice, units: int, started: float, clock: Callable[[], float] = time.monotonic):
        self.choice = choice
        self._units = units
        self._started = started
        self._clock = clock
        self._begun: float | None = None

    def begin(self) -> None:
        """The first unit begins; only the first call counts."""
        if self._begun is None:
            self._begun = self._clock()

    def judge(self) -> None:
        """The first unit is done; only the first call counts.

        Raises OverBudget when the whole will take too long and a quicker method is left.
        """
        if self.choice.minutes is None or self._begun is None or self.choice.method in self.choice.estimates:
            return
        now = self._clock()
        seconds = now - self._started + (self._units - 1) * (now - self._begun)
        if seconds > 60 * self.choice.minutes and self.choice.method != CANDIDATES[-1]:
            raise OverBudget(seconds)
        self.choice = self.choice.estimated(seconds)


def _in_minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes by how it began"
