"""What the languages whose programs hold their own tests share: run, and believe only the one-time number.

The number goes in on standard input and has to come back as the last line of standard output; each harness says how
it keeps the program from writing it. Unlike Python's, these tests share a process with the program: a program that
searches its own memory for the number is not kept from it.
"""

import dataclasses
import secrets
from pathlib import Path

from submodel.tasks.judge.ending import describe_ending
from submodel.tasks.judge.program import Verdict, verdict
from submodel.tasks.sandbox import Job, Limits, Sandbox

COMPILE_LIMITS = Limits(
    seconds=120, cpu_seconds=60, memory_bytes=2 << 30, processes=256, output_bytes=64 << 20, file_bytes=256 << 20
)


class CompileError(Exception):
    """The compiler refused the program; its first error is the text."""


def run_with_number(
    sandbox: Sandbox, argv: list[str], mounts: list[Path], limits: Limits, program: bytes = b""
) -> Verdict:
    """Run a harness to its end and judge by what it wrote."""
    number = secrets.token_hex(16).encode()
    job = Job(tuple(argv), mounts=tuple(mounts), stdin=number + program, limits=limits)
    outcome = sandbox.run(job)
    if outcome.status == "exited" and outcome.code == 0 and outcome.stdout.endswith(b"\n" + number + b"\n"):
        return verdict("passed", "", outcome.seconds)
    return verdict(*describe_ending(outcome), outcome.seconds)


def compile_with(sandbox: Sandbox, script: str, mounts: list[Path], source: bytes) -> bytes:
    """Run a shell script that reads a program on standard input and writes what was made of it. CompileError."""
    job = Job(("/bin/sh", "-euc", script), mounts=tuple(mounts), stdin=source, limits=COMPILE_LIMITS)
    outcome = sandbox.run(job)
    if outcome.status == "exited" and outcome.code == 0 and outcome.stdout:
        return outcome.stdout
    if outcome.status != "exited":
        raise CompileError(f"the compiler ended by {outcome.status}")
    lines = outcome.stderr.decode(errors="replace").splitlines() or [f"exit status {outcome.code}"]
    raise CompileError(next((line for line in lines if "error" in line), lines[-1]))


def with_processes(limits: Limits, processes: int) -> Limits:
    """The same limits with room for the threads of a language's own machine."""
    return dataclasses.replace(limits, processes=limits.processes + processes)
