"""What the verbs print: one JSON document or lines on standard output, everything else on standard error."""

import argparse
import json
import sys
from typing import Any


class Bar:
    """A progress bar on standard error with the time left."""

    def __init__(self, what: str, unit: str):
        from tqdm import tqdm

        self._what = what
        self._bar = tqdm(
            desc=what, unit=unit, unit_scale=True, disable=None, file=sys.stderr, leave=False, dynamic_ncols=True
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int) -> None:
        if self._bar.total != total:
            self._bar.reset(total)  # the clock starts with the first block, past what an earlier run did
            self._bar.initial = done
        self._bar.update(done - self._bar.n)

    def named(self, what: str, done: int, total: int) -> None:
        if self._what != what:
            self._what = what
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)


def say(line: str) -> None:
    print(line, file=sys.stderr)


def show(args: argparse.Namespace, document: Any, lines: list[str]) -> None:
    print(json.dumps(document) if args.json else "\n".join(lines))
