"""Every hostile program in tests/attacks through the judge: its verdict, and that nothing of it is felt outside.

A program's header names the property it attacks and the statuses that a judgement may have. "passed" is expected of
those that try to get at something and answer the test properly only where that was refused.
"""

import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from submodel.tasks.judge import Judge, Program, missing_toolchain
from submodel.tasks.sandbox import Limits, open_sandbox
from tests.test_sandbox import needs_sandbox

ATTACKS = sorted(path for path in Path(__file__).with_name("attacks").glob("*/*") if path.is_file())
LANGUAGES = {".py": "python", ".cpp": "cpp", ".java": "java", ".js": "javascript"}
SECRET = "secret-of-the-user-4711"
DAEMON = f"{os.getpid()}7654"  # seconds that the daemon sleeps, by which it is known
LIMITS = Limits(
    seconds=2.5, cpu_seconds=10, memory_bytes=256 << 20, processes=64, output_bytes=1 << 16, file_bytes=8 << 20
)

pytestmark = needs_sandbox


@dataclass(frozen=True)
class Surroundings:
    judge: Judge
    port: int
    listener: socket.socket
    secret_file: Path
    outside: Path


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    outside = tmp_path_factory.mktemp("outside")
    outside.chmod(0o777)
    secret_file = tmp_path_factory.mktemp("home") / "secret.txt"
    secret_file.write_text(SECRET)
    secret_file.chmod(0o666)
    os.environ["SUBMODEL_TEST_SECRET"] = SECRET
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        judge = Judge(open_sandbox(), LIMITS)
        yield Surroundings(judge, listener.getsockname()[1], listener, secret_file, outside)
    del os.environ["SUBMODEL_TEST_SECRET"]


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_attack(path: Path, surroundings: Surroundings):
    language = LANGUAGES[path.suffix]
    if missing := missing_toolchain(language):
        pytest.skip(missing)
    source = path.read_text()
    for name, value in {
        "PORT": surroundings.port,
        "SECRET_FILE": surroundings.secret_file,
        "SECRET": SECRET,
        "OUTSIDE": surroundings.outside,
        "DAEMON": DAEMON,
    }.items():
        source = source.replace(f"@{name}@", str(value))
    expected = _header(source, "expect")[0]
    started = time.monotonic()
    verdict = surroundings.judge.judge(_program(language, source))

    statuses = [status for status in KNOWN if re.search(rf"\b{status}\b", expected)]
    assert statuses, f"{path}: what is {expected!r}?"
    assert verdict.status in statuses, verdict
    assert verdict.passed == (verdict.status == "passed")
    assert SECRET not in verdict.detail
    assert time.monotonic() - started < 60
    assert list(surroundings.outside.iterdir()) == []
    assert surroundings.secret_file.read_text() == SECRET
    assert surroundings.secret_file.stat().st_nlink == 1
    with pytest.raises(BlockingIOError):
        surroundings.listener.accept()
    assert _survivors() == []


KNOWN = ["passed", "wrong", "error", "compile", "missing", "early exit", "timeout", "memory", "output", "signal"]


def _program(language: str, source: str) -> Program:
    if language != "python":
        return Program(language, source)
    checks = "\n".join(_header(source, "check")) or "assert f(1) == 2"
    # the header names the checks: not for the program's own eyes
    text = "\n".join(line for line in source.splitlines() if not line.startswith("# check: "))
    return Program(language, text, checks=checks, entry="".join(_header(source, "entry")))


def _header(source: str, name: str) -> list[str]:
    return re.findall(rf"^(?:#|//) {name}: (.*)$", source, re.M)


def _survivors() -> list[str]:
    """Command lines of processes that came out of a sandbox; ended ones may take a moment to go."""
    deadline = time.monotonic() + 2
    while (found := [line for line in _command_lines() if DAEMON in line]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _command_lines() -> list[str]:
    lines: list[str] = []
    for process in Path("/proc").iterdir():
        try:
            lines += [(process / "cmdline").read_text()] if process.name.isdigit() else []
        except OSError:
            pass
    return lines
