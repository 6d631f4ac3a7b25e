"""Runs inside fresh namespaces, as their first process: builds the file system, gives up all rights, runs the program.

Started as a script by `namespaces.py` with one argument, a JSON object; imports nothing of this package, since nothing
but the standard library is on its path. Needs Linux 5.12 (mount_setattr).
"""

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _NO_SUID, _NO_DEV, _REMOUNT, _BIND, _RECURSIVE = 1, 2, 4, 32, 4096, 16384
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38


def main() -> None:
    """Build, split off the program, and stay as the first process until the program ends."""
    setup = json.loads(sys.argv[1])
    with os.fdopen(setup["filter_fd"], "rb") as file:
        filter_program = file.read()
    _build(setup)
    os.write(1, b"\n")  # says that it is inside, and goes on once told so: see `_Run` in run.py
    if os.read(0, 1) != b"\n":
        os._exit(125)
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # the program may not look into this process
    child = os.fork()
    if child == 0:
        _run(setup, filter_program)
    for fd in setup["fds"]:
        os.close(fd)  # so that the other end sees the program close it
    while True:
        pid, status = os.wait()  # orphans too
        if pid == child:  # our exit ends everything else in here
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _build(setup: dict[str, Any]) -> None:
    root = str(Path(__file__).parent)  # any directory that nothing below is mounted from
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEV, "size=1m,mode=755")
    os.mkdir(f"{root}/tmp")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _NO_SUID | _NO_DEV, f"size={setup['tmp_bytes']},nr_inodes=20000,mode=1777")
    os.mkdir(f"{root}/dev")
    for name in setup["devices"]:
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", "", _BIND, "")
    for name, target in setup["device_links"].items():
        os.symlink(target, f"{root}/dev/{name}")
    os.mkdir(f"{root}/proc")
    _mount("proc", f"{root}/proc", "proc", _NO_SUID | _NO_DEV, "")
    for path, target in setup["links"].items():
        os.symlink(target, root + path)
    for path in setup["mounts"]:
        _show(path, root + path)
    _mount("tmpfs", root, "", _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEV, "")
    os.chdir(root)
    _check(_LIBC.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_LIBC.umount2(b".", 2), "umount2")
    os.chdir("/tmp")


def _show(source: str, target: str) -> None:
    if Path(source).is_dir():
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    _mount(source, target, "", _BIND | _RECURSIVE, "")
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SUID | _NO_DEV, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    done = _LIBC.syscall(
        _MOUNT_SETATTR, -100, target.encode(), _AT_RECURSIVE, ctypes.byref(attributes), ctypes.c_size_t(size)
    )
    _check(done, f"mount_setattr {target}")


def _run(setup: dict[str, Any], filter_program: bytes) -> None:
    os.setsid()
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name, bounds in setup["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), tuple(bounds))
    for capability in range(64):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if setup["user"]:
        os.setgroups([])
        os.setresgid(setup["user"], setup["user"], setup["user"])
        os.setresuid(setup["user"], setup["user"], setup["user"])
    else:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        _check(_LIBC.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "capset")
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    code = Filter(len(filter_program) // 8, filter_program)
    _check(_LIBC.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(code), 0, 0), "seccomp")
    keep = {0, 1, 2, *setup["fds"]}
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the one that listed the others
    try:
        os.execvpe(setup["argv"][0], list(setup["argv"]), setup["environment"])
    except OSError as error:
        sys.stderr.write(f"{setup['argv'][0]}: {error.strerror}\n")
        os._exit(127)


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    done = _LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _check(done, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        sys.stderr.write(f"{what}: {os.strerror(ctypes.get_errno())}\n")
        os._exit(126)


if __name__ == "__main__":
    main()
