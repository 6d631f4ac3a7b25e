"""Run one command and say what it took: `launch.py STDOUT STDERR COMMAND...` prints one JSON line.

A small process between a study and the command, run by its file with nothing imported: Linux counts the memory of
the process that starts a command into the command's own peak (a child's ru_maxrss survives its exec), and a study
has torch in memory. Standard input is open as long as the study lives; when it closes, the command is killed, so
that a killed study leaves nothing running that its next run would meet.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time


def main(out: str, err: str, *command: str) -> None:
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command itself
    started = time.monotonic()
    with open(out, "wb") as stdout, open(err, "wb") as stderr:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    threading.Thread(target=_end_with_the_study, args=(child,), daemon=True).start()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # bytes there, kB elsewhere
    result = {"status": child.returncode, "seconds": round(seconds, 2), "peak_bytes": peak}
    with contextlib.suppress(BrokenPipeError):  # the study has been killed
        os.write(1, json.dumps(result).encode() + b"\n")


def _end_with_the_study(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1024):
        pass
    child.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # the thread is still reading
