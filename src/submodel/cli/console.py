"""What the verbs print: one JSON document or lines on standard output, everything else on standard error."""

import argparse
import json
import sys
import time
from typing import Any, Self

_EVERY_S = 30
"""Between two lines of progress where standard error is no terminal."""


class Bar:
    """Progress on standard error with the time left: a bar on a terminal, elsewhere a plain line every 30 seconds.

    Args:
        what: what is being done, such as "extracting python".
        unit: what is counted, such as "tokens".
    """

    def __init__(self, what: str, unit: str):
        self._what, self._unit = what, unit
        self._bar: Any = None
        self._total = -1
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=what, unit=unit, unit_scale=True, file=sys.stderr, leave=False, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, total: int) -> None:
        """So much of the total is done."""
        if self._total != total:
            self._begin(done, total)
        self._show(done)

    def named(self, what: str, done: int, total: int) -> None:
        """As `update`; another `what` begins anew."""
        if self._what != what or self._total < 0:
            self._what = what
            if self._bar is not None:
                self._bar.set_description(what, refresh=False)
            self._begin(0, total)
        self._total = total
        self._show(done)

    def _begin(self, done: int, total: int) -> None:
        """Start the clock, at what an earlier run had done."""
        self._total, self._start = total, done
        self._started = time.monotonic()
        self._next = self._started + _EVERY_S
        if self._bar is not None:
            self._bar.reset(total)
            self._bar.initial = done

    def _show(self, done: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY_S
            say(progress_line(self._what, self._unit, done, self._total, done - self._start, now - self._started))


def progress_line(what: str, unit: str, done: int, total: int, done_here: int, seconds: float) -> str:
    """`extracting python: 41% of 1,234,567 tokens, 3 min left`.

    Args:
        what, unit: as of `Bar`.
        done, total: how far it has come.
        done_here: of `done`, what was done in the last `seconds`; what remains is expected to take as long a piece.
    """
    count = f"{total:,} {unit}".strip()
    if not done_here:
        return f"{what}: {done / max(total, 1):.0%} of {count}"
    return f"{what}: {done / total:.0%} of {count}, {duration((total - done) * seconds / done_here)} left"


def duration(seconds: float) -> str:
    """Such as 40 s, 3 min or 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """A line for the user, on standard error."""
    print(line, file=sys.stderr)


def show(args: argparse.Namespace, document: Any, lines: list[str]) -> None:
    """The result on standard output: the document with --json, else the lines."""
    print(json.dumps(document) if args.json else "\n".join(lines))
