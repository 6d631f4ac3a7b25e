"""A contender in a process of its own, so that its memory and its threads are its own: asked one thing at a time.

A request and its answer are one JSON line each, over the child's standard input and output; whatever its libraries
print goes to its standard error. It ends when its input closes.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError


class Child:
    """A running contender.

    Args:
        title: how errors call it.
        command: the program and its arguments.
        threads: what OpenMP is given; idle threads sleep.
    """

    def __init__(self, title: str, command: Sequence[str], threads: int):
        self._title = title
        self._errors = tempfile.TemporaryFile()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )

    def ask(self, what: str, **about: Any) -> dict[str, Any]:
        """The answer. Raises SubmodelError with the child's own line when it refuses or has died."""
        self.send(what, **about)
        return self.receive()

    def send(self, what: str, **about: Any) -> None:
        """Ask without waiting; `receive` what it answers before anything else is asked."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # then `receive` says why
            self._process.stdin.write(json.dumps({"do": what, **about}).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines() or ["without a word"]
            status = self._process.wait()
            how = f"was killed by signal {-status}" if status < 0 else "ended"
            raise SubmodelError(f"{self._title}: its process {how}: {last[-1][:300]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SubmodelError(f"{self._title}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def answer_requests(start: Callable[[dict[str, Any]], dict[str, Callable[..., dict[str, Any]]]]) -> None:
    """The child's side: `start` gets the first request, which is answered with {}, and returns what answers the others.

    A SubmodelError is the answer's `error`; anything else ends the process.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers: dict[str, Callable[..., dict[str, Any]]] = {}
    for line in sys.stdin:
        about = json.loads(line)
        what = about.pop("do")
        try:
            if what == "start":
                answers = start(about)
                answer: dict[str, Any] = {}
            else:
                answer = answers[what](**about)
        except SubmodelError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=out, flush=True)


def resident_bytes() -> int | None:
    """Resident memory of this process (VmRSS), what the allocator keeps for later given back; None without /proc."""
    import ctypes

    status = Path("/proc/self/status")
    if not status.exists():
        return None
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS"))
