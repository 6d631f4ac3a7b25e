"""What every kind of sandbox that works here keeps, each with plain shell programs."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from submodel.errors import SubmodelError
from submodel.tasks import sandbox as package
from submodel.tasks.sandbox import BACKENDS, Job, Limits, Outcome, Sandbox, open_sandbox, probe
from submodel.tasks.sandbox.visible import python_paths

REASONS = {name: probe(name) for name in BACKENDS}
needs_sandbox = pytest.mark.skipif(
    all(REASONS.values()), reason=f"nothing here isolates programs: {'; '.join(map(str, REASONS.values()))}"
)
# where this project itself lies below /tmp, the way to its Python shows there
OURS = {path.parts[2] for path in python_paths() if path.is_relative_to("/tmp")}
LIMITS = Limits(seconds=2, cpu_seconds=1, memory_bytes=128 << 20, processes=32, output_bytes=10_000, file_bytes=4 << 20)


@pytest.fixture(params=list(BACKENDS))
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if reason := REASONS[request.param]:
        pytest.skip(reason)
    return Sandbox(request.param, BACKENDS[request.param].command)


def shell(sandbox: Sandbox, script: str, limits: Limits = LIMITS, stdin: bytes = b"") -> Outcome:
    return sandbox.run(Job(("/bin/sh", "-c", script), limits=limits, stdin=stdin))


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ("exit 0", "exited", 0),
        ("exit 3", "exited", 3),
        ("kill -9 $$", "signal", 9),
        ("sleep 60", "timeout", 9),
        ("while :; do :; done", "cpu", 24),
        ("yes", "output", 9),
        ("yes >&2", "output", 9),
        ("no-such-program", "exited", 127),
    ],
)
def test_endings(sandbox: Sandbox, script: str, status: str, code: int):
    # a second of processor time takes longer where others compute as well
    limits = replace(LIMITS, seconds=9) if status == "cpu" else LIMITS
    outcome = shell(sandbox, script, limits)
    assert (outcome.status, outcome.code) == (status, code)
    assert outcome.seconds < 10
    assert len(outcome.stdout) <= LIMITS.output_bytes and len(outcome.stderr) <= LIMITS.output_bytes


def test_streams(sandbox: Sandbox):
    data = bytes(range(256)) * 4000  # more than a pipe holds
    outcome = shell(sandbox, "cat; echo aside >&2", Limits(seconds=10), stdin=data)
    assert outcome.stdout == data and outcome.stderr == b"aside\n"


def test_input_that_nobody_reads(sandbox: Sandbox):
    assert shell(sandbox, "exit 5", stdin=bytes(1 << 20)).code == 5


def test_surroundings(sandbox: Sandbox):
    script = "pwd; env | sort | tr '\\n' ' '; echo; ls /proc | grep -c '^[0-9]'; ls /sys/class/net /home"
    outcome = shell(sandbox, script)
    lines = outcome.stdout.decode().splitlines()
    assert lines[0] == "/tmp"
    names = {word.partition("=")[0] for word in lines[1].split()}
    assert {"HOME", "LANG", "PATH"} <= names <= {"HOME", "LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}
    assert int(lines[2]) < 10
    assert len(lines) == 3
    assert set(shell(sandbox, "ls -A").stdout.decode().split()) == OURS


def test_no_rights(sandbox: Sandbox):
    status = shell(sandbox, "cat /proc/self/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert all(int(fields[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"))
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"


@pytest.mark.parametrize("folder", ["/", "/usr", "/etc", "/dev", "/proc/sys/kernel"])
def test_only_the_private_directory_is_writable(sandbox: Sandbox, folder: str):
    assert shell(sandbox, f"echo x > {folder}/hostname").code != 0
    assert shell(sandbox, "echo x > /tmp/hostname").code == 0


def test_shared_memory_lies_in_the_private_directory(sandbox: Sandbox):
    """Where its size and number of files are bounded."""
    outcome = shell(sandbox, "readlink -f /dev/shm; echo x > /dev/shm/file; ls; ls /dev/pts /dev/ptmx 2>/dev/null")
    assert outcome.stdout.decode().split() == ["/tmp", *sorted({"file", *OURS})]
    assert not Path("/dev/shm/file").exists()


def test_mounts_are_read_only(sandbox: Sandbox, tmp_path: Path):
    tmp_path.chmod(0o755)  # what runs inside is another user
    (tmp_path / "file").write_text("shown")
    job = Job(("/bin/sh", "-c", f"cat {tmp_path}/file; echo x > {tmp_path}/file"), mounts=(tmp_path,), limits=LIMITS)
    outcome = sandbox.run(job)
    assert outcome.stdout == b"shown" and outcome.code != 0
    assert (tmp_path / "file").read_text() == "shown"
    assert shell(sandbox, f"cat {tmp_path}/file").code != 0


def test_space_is_bounded_and_gone_afterwards(sandbox: Sandbox):
    outcome = shell(sandbox, "for i in 1 2 3 4 5 6 7 8; do head -c 1M /dev/zero > f$i; done; cat f* | wc -c")
    assert int(outcome.stdout) <= LIMITS.file_bytes
    assert set(shell(sandbox, "ls").stdout.decode().split()) == OURS


def test_everything_ends_with_the_program(sandbox: Sandbox):
    number = f"{os.getpid()}4321"
    shell(sandbox, f"setsid sleep {number} >/dev/null 2>&1 </dev/null & sleep 0.2")
    assert gone(number)


def test_everything_ends_with_us(sandbox: Sandbox):
    number = f"{os.getpid()}4322"
    ours = textwrap.dedent(f"""
        from submodel.tasks.sandbox import BACKENDS, Job, Sandbox
        Sandbox({sandbox.name!r}, BACKENDS[{sandbox.name!r}].command).run(Job(("/bin/sleep", {number!r})))
    """)
    process = subprocess.Popen([sys.executable, "-c", ours])
    deadline = time.monotonic() + 60
    while gone(number, wait=0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not gone(number, wait=0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(number)


def test_side_by_side(sandbox: Sandbox):
    outcomes: list[bytes] = []
    threads = [
        threading.Thread(target=lambda at=at: outcomes.append(shell(sandbox, f"sleep 0.2; echo {at}").stdout))
        for at in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [b"%d\n" % at for at in range(8)]


def test_helper_is_stopped(sandbox: Sandbox):
    main = Job(("/bin/sh", "-c", "sleep 0.1; exit 3"), limits=LIMITS)
    helper = Job(("/bin/sleep", "60"), limits=LIMITS)
    first, second = sandbox.run_together(main, helper)
    assert (first.status, first.code, second.status) == ("exited", 3, "stopped")
    assert second.seconds < LIMITS.seconds


def test_a_sandbox_that_does_not_start():
    broken = Sandbox("broken", lambda job, filter_fd: ["/bin/sh", "-c", "echo no room >&2; exit 1"])
    with pytest.raises(SubmodelError, match="the broken sandbox did not start: no room"):
        broken.run(Job(("/bin/true",)))


def test_nothing_to_isolate_with(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(package, "probe", lambda name: f"{name}: not here")
    with pytest.raises(SubmodelError, match="bubblewrap: not here.*install bubblewrap.*--unsafe-code"):
        open_sandbox()
    sandbox = open_sandbox(unsafe=True)
    assert sandbox.name == "none"
    assert shell(sandbox, "echo here; touch file; exit 4").code == 4
    assert shell(sandbox, "sleep 60").status == "timeout"


def gone(word: str, wait: float = 3) -> bool:
    """Whether no process with `word` in its command line is left."""
    deadline = time.monotonic() + wait
    while True:
        found = False
        for process in Path("/proc").iterdir():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            except OSError:
                continue
            found = found or word.encode() in words
        if not found or time.monotonic() > deadline:
            return not found
        time.sleep(0.05)
