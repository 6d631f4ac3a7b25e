"""What the verbs print: one JSON document or lines on standard output, everything else on standard error."""

import argparse
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

_EVERY_S = 30
"""Between two lines of progress where standard error is no terminal."""


_said = [0.0]  # when the last line was written
_bars: "list[Bar]" = []  # what is being shown now


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
        _bars.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _bars.remove(self)
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

    @property
    def line(self) -> str:
        """How far it has come; empty before anything was said of it."""
        if self._total < 0:
            return ""
        seconds = time.monotonic() - self._started
        return progress_line(self._what, self._unit, self._done, self._total, self._done - self._start, seconds)

    def _begin(self, done: int, total: int) -> None:
        """Start the clock, at what an earlier run had done."""
        self._start = self._done = done
        self._total = total
        self._started = time.monotonic()
        self._next = self._started + _EVERY_S
        if self._bar is not None:
            self._bar.reset(total)
            self._bar.initial = done

    def _show(self, done: int) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY_S
            say(self.line)


@contextmanager
def signs_of_life(what: str, every_s: float = _EVERY_S) -> Iterator[None]:
    """Where standard error is no terminal, a line whenever nothing was said for so many seconds.

    Args:
        what: is being done, where no `Bar` knows how far it has come.
        every_s: seconds without a line.
    """
    if sys.stderr.isatty():
        yield
        return
    started, ended = time.monotonic(), threading.Event()
    _said[0] = started

    def watch() -> None:
        while not ended.wait(max(0.01, _said[0] + every_s - time.monotonic())):
            if time.monotonic() - _said[0] >= every_s:
                running = f"{what}: at work for {duration(time.monotonic() - started)}"
                say(next((bar.line for bar in reversed(_bars) if bar.line), running))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_any_text() -> None:
    """Have characters that a terminal's encoding lacks written as escapes, where Python would fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    _said[0] = time.monotonic()
    print(line, file=sys.stderr, flush=True)


def show(args: argparse.Namespace, document: Any, lines: list[str]) -> None:
    """The result on standard output: the document with --json, else the lines."""
    print(json.dumps(document) if args.json else "\n".join(lines))
