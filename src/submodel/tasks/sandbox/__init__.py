"""Run programs that nobody has read where they reach nothing: no network, none of our files, bounded in all they use.

    sandbox = open_sandbox()
    outcome = sandbox.run(Job(("/usr/bin/python3", "-c", "print(1)"), limits=Limits(seconds=5)))

What is covered: an own view of the file system (the system's programs read-only, one private directory of bounded
size in memory), own process, network, IPC and host-name namespaces, a user that owns nothing, no capabilities, a
filter of system calls, the kernel's limits on each process, a watch on what all of them hold together; everything
started inside ends with the program, and with us. What is not: defects of the kernel, time stolen from other
programs, kernel memory behind sockets and pipes beyond what its own limits bound.
"""

import shutil
from pathlib import Path

from submodel.errors import SubmodelError
from submodel.tasks.sandbox import bubblewrap, namespaces
from submodel.tasks.sandbox.limits import Job, Limits, Outcome
from submodel.tasks.sandbox.run import Sandbox
from submodel.tasks.sandbox.visible import python_executable

__all__ = ["BACKENDS", "Job", "Limits", "Outcome", "Sandbox", "open_sandbox", "probe"]

BACKENDS = {"bubblewrap": bubblewrap, "namespaces": namespaces}


def open_sandbox(*, unsafe: bool = False) -> Sandbox:
    """The first kind of sandbox that works here, tried with a real program.

    With `unsafe`, where none works, programs run as our own user with nothing but the kernel's limits; without it that
    is a SubmodelError.
    """
    reasons: list[str] = []
    for name in BACKENDS:
        reason = probe(name)
        if reason is None:
            return Sandbox(name, BACKENDS[name].command)
        reasons.append(reason)
    if unsafe:
        return Sandbox("none", lambda job, filter_fd: [*bubblewrap.prlimit(job), *job.argv])
    raise SubmodelError(
        f"nothing here can isolate model-written programs ({'; '.join(reasons)}): install bubblewrap (Debian: "
        "bubblewrap), or pass --unsafe-code to run them with your own rights"
    )


def probe(name: str) -> str | None:
    """Why the kind of sandbox called `name` does not work here, or None where it does."""
    missing = [tool for tool in BACKENDS[name].TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{name}: no {' or '.join(missing)} on PATH"
    if not Path("/proc/thread-self/children").exists():
        return f"{name}: this kernel does not list the children of a process"
    argv = (str(python_executable()), "-I", "-S", "-c", "print('inside')")
    try:
        outcome = Sandbox(name, BACKENDS[name].command).run(Job(argv))
    except SubmodelError as error:
        return f"{name}: {error}"
    if outcome.stdout == b"inside\n":
        return None
    messages = outcome.stderr.decode(errors="replace").strip().splitlines() or [f"{outcome.status} {outcome.code}"]
    return f"{name}: {messages[-1]}"
