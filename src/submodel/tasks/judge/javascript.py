"""Judge a JavaScript program: Node runs our harness, which runs the program as a CommonJS module."""

import dataclasses
import shutil
from pathlib import Path

from submodel.tasks.judge.one_time_number import run_with_number, with_processes
from submodel.tasks.judge.program import Program, Verdict
from submodel.tasks.sandbox import Limits, Sandbox
from submodel.tasks.sandbox.visible import tool_paths

_HARNESS = Path(__file__).with_name("harness") / "harness.js"
_NOT_A_PROGRAM = 121  # exit status of the harness where the text does not parse
_THREADS = 32  # of Node itself


def missing() -> str | None:
    """What is not here, in one line with what to install."""
    return None if shutil.which("node") else "javascript: no node on PATH (Debian: nodejs)"


def judge(sandbox: Sandbox, program: Program, limits: Limits) -> Verdict:
    """Run one program."""
    node = Path(shutil.which("node") or "node")
    heap = (limits.memory_bytes >> 20) * 3 // 4
    argv = [str(node), f"--max-old-space-size={heap}", "--no-deprecation", str(_HARNESS)]
    source = program.source.encode("utf-8", "replace")
    result = run_with_number(sandbox, argv, [*tool_paths(node), _HARNESS], with_processes(limits, _THREADS), source)
    refused = result.status == "error" and result.detail.startswith(f"exit status {_NOT_A_PROGRAM}: ")
    return dataclasses.replace(result, status="compile") if refused else result
