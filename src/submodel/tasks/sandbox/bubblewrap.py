"""Isolation by bubblewrap (https://github.com/containers/bubblewrap), 0.6 or newer: the command line for one job."""

import shutil
from pathlib import Path

from submodel.tasks.sandbox.identity import private_user
from submodel.tasks.sandbox.limits import Job, resource_limits
from submodel.tasks.sandbox.visible import (
    DEVICE_LINKS,
    DEVICES,
    ENVIRONMENT,
    outside_system,
    python_paths,
    system_paths,
)

# Says that it is inside, and goes on once told so: see `_Run` in run.py.
_READY = "echo; read -r _ || exit 125"
TOOLS = ("bwrap", "prlimit", "setpriv")


def command(job: Job, filter_fd: int) -> list[str]:
    """The command that runs `job`; bubblewrap reads the system-call filter from `filter_fd`."""
    user = private_user()
    # Without a user of its own the program could write to the memory of bubblewrap's process inside, which no limit
    # and no filter holds. Then the first process is a shell that both hold; the program itself cannot be it, since
    # the first process ignores signals.
    return [
        shutil.which("bwrap") or "bwrap",
        *"--unshare-net --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --hostname sandbox".split(),
        *([] if user else ["--unshare-user", "--as-pid-1"]),
        *"--die-with-parent --new-session --clearenv".split(),
        *[word for name, value in ENVIRONMENT.items() for word in ("--setenv", name, value)],
        *_file_system(job),
        *"--chdir /tmp --cap-drop ALL".split(),
        # only setpriv, which then gives them up, holds these
        *("--cap-add CAP_SETUID --cap-add CAP_SETGID --cap-add CAP_SETPCAP".split() if user else []),
        *["--seccomp", str(filter_fd), "--"],
        *(["/bin/sh", "-c", f'{_READY}; exec "$@"', "sh"] if user else []),
        *prlimit(job),
        *(_become(user) if user else ["/bin/sh", "-c", f'{_READY}; "$@"; exit $?', "sh"]),
        *job.argv,
    ]


def prlimit(job: Job) -> list[str]:
    """The prefix that sets the kernel's limits on what follows it. Set inside, where the count of processes starts."""
    limits = [f"--{name}={soft}:{hard}" for name, (soft, hard) in resource_limits(job.limits).items()]
    return [shutil.which("prlimit") or "prlimit", *limits, "--"]


def _become(user: int) -> list[str]:
    options = "--clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all --"
    return [shutil.which("setpriv") or "setpriv", "--reuid", str(user), "--regid", str(user), *options.split()]


def _file_system(job: Job) -> list[str]:
    words = "--perms 0755 --dir /etc".split()
    for path in system_paths():
        is_link = path.is_symlink() and path.parent == path.parents[-1]
        words += ["--symlink", str(path.readlink()), str(path)] if is_link else ["--ro-bind", str(path), str(path)]
    # not bubblewrap's own /dev: it has terminals, and a /dev/shm whose files no limit counts
    words += "--proc /proc --perms 0755 --tmpfs /dev".split()
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for name, target in DEVICE_LINKS.items():
        words += ["--symlink", target, f"/dev/{name}"]
    words += ["--remount-ro", "/dev"]
    # before the mounts below: some of them may lie under /tmp
    words += ["--perms", "1777", "--size", str(job.limits.file_bytes), "--tmpfs", "/tmp"]
    for path in [*python_paths(), *outside_system(list(job.mounts))]:
        for parent in [*path.parents][-2::-1]:  # else made for their owner only
            words += ["--perms", "0755", "--dir", str(parent)] if parent != Path("/tmp") else []
        words += ["--ro-bind", str(path), str(path)]
    return [*words, "--remount-ro", "/"]
