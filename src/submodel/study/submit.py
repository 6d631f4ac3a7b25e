"""Run one cell in a process of its own, on this machine. A cluster would be another function of the same type."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel.study import launch
from submodel.study.plan import Cell


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        seconds: of the clock, from start to end of the process.
        peak_bytes: the most resident memory of the process or of one it started.
        document: what it printed with --json; empty if it failed.
        said: the last line of its log.
    """

    status: int
    seconds: float
    peak_bytes: int
    document: dict[str, Any]
    last_line: str


Submit = Callable[[Cell, Path], Outcome]
"""Runs a cell to its end; standard error goes to the log, a file in a directory that is there."""


def submit(cell: Cell, log: Path) -> Outcome:
    """Run a cell here and wait for it. It ends with this process, however that ends."""
    out = log.with_suffix(".out")
    command = [sys.executable, "-P", "-m", "submodel.cli", *cell.argv]
    launcher = [sys.executable, "-I", "-S", launch.__file__, str(out), str(log), *command]
    try:
        with subprocess.Popen(
            launcher, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cell.folder, env=_environment()
        ) as process:
            assert process.stdin and process.stdout
            try:
                answer = process.stdout.read()
            finally:
                process.stdin.close()  # ends the cell if this process was interrupted
                process.wait()
        result = json.loads(answer)
        document = json.loads(out.read_text()) if result["status"] == 0 else {}
    except (OSError, ValueError) as error:  # no processes left, or one was killed from outside
        return Outcome(1, 0.0, 0, {}, f"its process could not be run to its end ({error})")
    finally:
        out.unlink(missing_ok=True)
    lines = log.read_text(errors="replace").strip().splitlines()
    return Outcome(result["status"], result["seconds"], result["peak_bytes"], document, lines[-1] if lines else "")


def _environment() -> dict[str, str]:
    """Ours, with the places of Python's modules made absolute: cells run in another directory."""
    places = os.environ.get("PYTHONPATH")
    if not places:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in places.split(os.pathsep) if p)}
