"""What a program may use, what is to be run, and what came of it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Bounds of one sandboxed program, all of its processes together unless said otherwise."""

    seconds: float = 60.0  # of the clock
    cpu_seconds: int = 15  # of one process
    memory_bytes: int = 1 << 30  # resident; of one process also the most it may map for data
    processes: int = 128  # threads count as processes
    output_bytes: int = 1 << 20  # standard output and standard error, each
    file_bytes: int = 64 << 20  # one file, and its private directory as a whole


@dataclass(frozen=True)
class Job:
    """One program to run: `mounts` are seen read-only under their own paths, `fds` stay open under their own numbers.

    Everyone has to be allowed to read the mounts: where we are root, the program runs as another user.
    Its current directory is private, writable, bounded by `limits.file_bytes` and gone afterwards.
    """

    argv: tuple[str, ...]
    mounts: tuple[Path, ...] = ()
    stdin: bytes = b""
    fds: tuple[int, ...] = ()
    limits: Limits = Limits()


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    `status`: "exited" (`code` is its exit status), "signal" (`code` is the signal's number), "timeout", "cpu",
    "memory", "output" (over a limit and killed; `code` is 9), or "stopped" (killed since the program that it served
    had ended; `code` is 9). `stdout` and `stderr` are cut at the limit on output.
    """

    status: str
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float


def resource_limits(limits: Limits) -> dict[str, tuple[int, int]]:
    """Soft and hard kernel limits of every process inside, by their names in `prlimit` and the `resource` module.

    Memory is bounded by data, not by address space: Java and Node reserve far more addresses than they use.
    """
    return {
        "core": (0, 0),
        "cpu": (limits.cpu_seconds, limits.cpu_seconds + 1),
        "data": (limits.memory_bytes, limits.memory_bytes),
        "fsize": (limits.file_bytes, limits.file_bytes),
        "nofile": (256, 256),
        "nproc": (limits.processes, limits.processes),
        "msgqueue": (0, 0),
        "stack": (8 << 20, 8 << 20),
    }
