"""Run jobs in a sandbox: start, feed, read, watch the limits, kill, and say how each ended."""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

from submodel.errors import SubmodelError
from submodel.tasks.sandbox import processes
from submodel.tasks.sandbox.limits import Job, Outcome
from submodel.tasks.sandbox.system_calls import filter_program

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 0.5  # for a helper to end by itself once what it served has ended
_FILES = 20_000
_CHUNK = 1 << 16


class Sandbox:
    """A way to run programs apart from this machine. Its methods may be called from many threads at once.

    `name` is "bubblewrap", "namespaces" or "none"; `command` turns a job and the descriptor of a system-call filter
    into the command that isolates it.
    """

    def __init__(self, name: str, command: Callable[[Job, int], list[str]]):
        self.name = name
        self._command = command

    def run(self, job: Job) -> Outcome:
        """Run one job to its end or to its first broken limit. SubmodelError where the sandbox does not start."""
        return self.run_together(job)[0]

    def run_together(self, main: Job, *helpers: Job, after_start: Callable[[], object] = lambda: None) -> list[Outcome]:
        """Run jobs side by side until `main` ends; helpers that go on after it are stopped. Outcomes in that order.

        `after_start` is called once all have started: to close our copies of what connects them.
        """
        runs: list[_Run] = []
        try:
            for job in (main, *helpers):
                runs.append(_Run(job, self._command, isolated=self.name != "none"))
            after_start()
            _attend(runs)
        finally:
            for run in runs:
                run.close()
        for run in runs:
            if not run.ready and not run.broken:
                messages = run.written["stderr"].decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise SubmodelError(
                    f"the {self.name} sandbox did not start: {messages[-1]}; check that there are processes, memory "
                    "and user namespaces left, or run fewer programs side by side"
                )
        return [run.outcome() for run in runs]


class _Run:
    """One started job and what it has written so far.

    Bubblewrap and unshare arrange for everything to end with us only a moment after their start. So the first thing
    inside writes a line end, and starts the program only when one comes back: from the living.
    """

    def __init__(self, job: Job, command: Callable[[Job, int], list[str]], isolated: bool):
        self.job = job
        self.started = time.monotonic()
        self.deadline = self.started + job.limits.seconds
        self.too_late = "timeout"  # what a run past its deadline is called
        self.broken = ""  # the limit for which it was killed
        self.seconds = 0.0
        self.isolated = isolated
        self.folder = None if isolated else tempfile.mkdtemp(prefix="submodel-unsafe-")
        filter_fd, end = os.pipe()
        try:
            os.write(end, filter_program() if isolated else b"")
            os.close(end)
            self.process = subprocess.Popen(
                command(job, filter_fd),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self.folder or "/",
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": self.folder or "/", "LANG": "C.UTF-8"},
                pass_fds=(filter_fd, *job.fds),
                start_new_session=True,
            )
        finally:
            os.close(filter_fd)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.ready = not isolated
        self.unsent = memoryview(b"\n" * isolated + job.stdin)
        self.written = {"stdout": bytearray(), "stderr": bytearray()}

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self, broken: str) -> None:
        """End it and all that it started. `broken` is the status to report, kept from the first call."""
        if self.ended:
            return
        self.broken = self.broken or broken
        # the first process inside, before the one that watches it: without it the kernel ends the rest
        for child in processes.descendants(self.process.pid)[:1]:
            with contextlib.suppress(OSError):
                fd = os.pidfd_open(child)
                try:
                    if child in processes.descendants(self.process.pid):  # still the same process
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                finally:
                    os.close(fd)
        with contextlib.suppress(ProcessLookupError):
            if self.isolated:
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)

    def check_limits(self) -> None:
        """Kill it over a limit that the kernel does not watch."""
        if time.monotonic() > self.deadline:
            self.kill(self.too_late)
            return
        pids = processes.descendants(self.process.pid)
        limits = self.job.limits
        if processes.memory_bytes(pids, limits.memory_bytes) > limits.memory_bytes:
            self.kill("memory")
        elif self.isolated and processes.file_count(pids, limits.file_bytes) > _FILES:
            self.kill("output")

    def send(self) -> bool:
        """Send more of standard input; False once there is no more to send."""
        assert self.process.stdin is not None
        try:
            self.unsent = self.unsent[os.write(self.process.stdin.fileno(), self.unsent[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return len(self.unsent) > 0

    def receive(self, name: str) -> bool:
        """Read more of "stdout" or "stderr"; False at its end."""
        stream = getattr(self.process, name)
        try:
            data = os.read(stream.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        if not self.ready and name == "stdout" and data:
            self.ready, data = True, data[1:]
            if not data:
                return True
        room = self.job.limits.output_bytes - len(self.written[name])
        self.written[name] += data[:room]
        if len(data) > room:
            self.kill("output")
            return False
        return len(data) > 0

    def close(self) -> None:
        """Kill it if it still runs, wait for it, let go of everything."""
        self.kill("stopped")
        self.process.wait()
        self.seconds = self.seconds or time.monotonic() - self.started
        os.close(self.pidfd)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def outcome(self) -> Outcome:
        """How it ended; only after `close`."""
        code = self.process.returncode
        number = -code if code < 0 else code - 128  # 128 + n: what a shell or bubblewrap makes of signal n
        if self.broken:
            status, code = self.broken, int(signal.SIGKILL)
        elif number == signal.SIGXCPU:
            status, code = "cpu", number
        elif 0 < number <= 64:
            status, code = "signal", number
        else:
            status = "exited"
        return Outcome(status, code, bytes(self.written["stdout"]), bytes(self.written["stderr"]), self.seconds)


def _attend(runs: list[_Run]) -> None:
    main = runs[0]
    next_check = 0.0
    with selectors.DefaultSelector() as selector:
        for run in runs:
            _register(selector, run)
        while not main.ended or any(not run.ended for run in runs):
            for key, _ in selector.select(_POLL_SECONDS):
                run, what = key.data
                _handle(selector, key, run, what)
            now = time.monotonic()
            for run in [run for run in runs if run.ended and not run.seconds]:
                run.seconds = now - run.started
                for helper in runs[1:] if run is main else []:
                    helper.deadline, helper.too_late = now + _GRACE_SECONDS, "stopped"
            if now > next_check:
                next_check = now + _POLL_SECONDS
                for run in [run for run in runs if not run.ended]:
                    run.check_limits()
        _drain(selector)


def _register(selector: selectors.BaseSelector, run: _Run) -> None:
    process = run.process
    assert process.stdin and process.stdout and process.stderr
    for stream in (process.stdin, process.stdout, process.stderr):
        os.set_blocking(stream.fileno(), False)
    if run.ready:
        _feed(selector, run)
    selector.register(process.stdout, selectors.EVENT_READ, (run, "stdout"))
    selector.register(process.stderr, selectors.EVENT_READ, (run, "stderr"))
    selector.register(run.pidfd, selectors.EVENT_READ, (run, "end"))


def _handle(selector: selectors.BaseSelector, key: selectors.SelectorKey, run: _Run, what: str) -> None:
    if what == "end":
        selector.unregister(run.pidfd)
    elif what == "stdin":
        if not run.send():
            selector.unregister(key.fileobj)
            assert run.process.stdin is not None
            run.process.stdin.close()
    else:
        waited = not run.ready
        if not run.receive(what):
            selector.unregister(key.fileobj)
        if waited and run.ready:
            _feed(selector, run)


def _feed(selector: selectors.BaseSelector, run: _Run) -> None:
    assert run.process.stdin is not None
    if run.unsent:
        selector.register(run.process.stdin, selectors.EVENT_WRITE, (run, "stdin"))
    else:
        run.process.stdin.close()


def _drain(selector: selectors.BaseSelector) -> None:
    """What ended programs had written but we had not read. Never waits: all that could still write is being killed."""
    while ready := [key for key, _ in selector.select(0) if key.data[1] in ("stdout", "stderr")]:
        for key in ready:
            _handle(selector, key, *key.data)
