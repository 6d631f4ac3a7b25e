"""Judge a Python program: its code in one sandbox, its tests in another, plain data in between.

So nothing that the program does to its own interpreter, its files or its output has a bearing on the verdict, which
the tests' process alone gives.
"""

import compileall
import functools
import json
import socket
from pathlib import Path

from submodel.errors import SubmodelError
from submodel.tasks.judge.ending import describe_ending, last_line
from submodel.tasks.judge.program import Program, Verdict, verdict
from submodel.tasks.sandbox import Job, Limits, Sandbox
from submodel.tasks.sandbox.visible import python_executable, site_packages

_HARNESS = Path(__file__).with_name("harness")


def missing() -> str | None:
    """What lacks here to judge Python: nothing, it is what runs us."""
    return None


def judge(sandbox: Sandbox, program: Program, limits: Limits) -> Verdict:
    """Run a program's functions under its checks. SubmodelError where the checks or their context do not run at all."""
    task = {"context": program.context, "checks": program.checks, "entry": program.entry}
    our_end, their_end = socket.socketpair()
    with our_end, their_end:
        checker = _job("python_checker", our_end.fileno(), json.dumps(task).encode(), limits)
        candidate = _job("python_candidate", their_end.fileno(), _text(program.source), limits)
        outcomes = sandbox.run_together(checker, candidate, after_start=lambda: (our_end.close(), their_end.close()))
    checked, ran = outcomes
    seconds = checked.seconds
    try:
        report = json.loads(checked.stdout)
    except ValueError:  # it was killed: by a limit, while it worked on what the program answered
        if ran.status in ("memory", "output", "cpu"):
            return verdict(*describe_ending(ran), seconds)
        if checked.status == "exited":  # none of the program's doing
            raise SubmodelError(
                f"the process of the tests did not start: {last_line(checked.stderr) or checked.code}; check that "
                f"{sandbox.name} still works here and that the limits leave room for an interpreter ({limits})"
            ) from None
        return verdict(*describe_ending(checked), seconds)
    if checked.status == "exited" and report["status"] == "bad test":
        raise SubmodelError(
            f"the tests of this program do not run: {report['detail']}; `context` and `checks` have to be whole Python "
            f"programs (context starts with {program.context[:60]!r}, checks with {program.checks[:60]!r})"
        )
    if report["status"] == "gone":
        return verdict(*describe_ending(ran), seconds)
    return verdict(report["status"], report["detail"], seconds)


def _job(module: str, fd: int, stdin: bytes, limits: Limits) -> Job:
    _compile_harness()
    options = ("-I", "-S", "-B", "-X", "utf8", "-X", "int_max_str_digits=0")
    start = f"import sys; sys.path.insert(0, {str(_HARNESS)!r}); from {module} import main; del sys.path[0]; main()"
    paths = [str(path) for path in site_packages()]
    argv = (str(python_executable()), *options, "-c", start, str(fd), *paths)
    return Job(argv, mounts=(_HARNESS,), stdin=stdin, fds=(fd,), limits=limits)


@functools.cache
def _compile_harness() -> None:
    """Byte code beside the files, as an installer leaves it, since what runs inside cannot write it."""
    compileall.compile_dir(_HARNESS, quiet=2)


def _text(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")
