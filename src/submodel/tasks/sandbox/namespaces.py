"""Isolation by the kernel's namespaces through `unshare` of util-linux, where bubblewrap is not installed.

`unshare` makes the namespaces; `enter.py` then builds the view of the file system inside and gives up all rights.
"""

import json
import shutil
from pathlib import Path

from submodel.tasks.sandbox.identity import private_user
from submodel.tasks.sandbox.limits import Job, resource_limits
from submodel.tasks.sandbox.visible import (
    DEVICE_LINKS,
    DEVICES,
    ENVIRONMENT,
    outside_system,
    python_executable,
    python_paths,
    system_paths,
)

TOOLS = ("unshare", "setpriv")
_ENTER = Path(__file__).with_name("enter.py")


def command(job: Job, filter_fd: int) -> list[str]:
    """The command that runs `job`; `enter.py` reads the system-call filter from `filter_fd`."""
    user = private_user()
    links = {path: path.readlink() for path in system_paths() if path.is_symlink() and path.parent == path.parents[-1]}
    paths = [path for path in system_paths() if path not in links]
    setup = {
        "argv": job.argv,
        "environment": ENVIRONMENT,
        "devices": DEVICES,
        "device_links": DEVICE_LINKS,
        "filter_fd": filter_fd,
        "fds": job.fds,
        "limits": resource_limits(job.limits),
        "links": {str(path): str(target) for path, target in links.items()},
        "mounts": [str(path) for path in [*paths, *python_paths(), *outside_system(list(job.mounts))]],
        "tmp_bytes": job.limits.file_bytes,
        "user": user,
    }
    return [
        # unshare dies with us, its child with unshare, everything in the namespace with that child
        *[shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--"],
        *[shutil.which("unshare") or "unshare", "--net", "--pid", "--ipc", "--uts", "--mount", "--fork"],
        *["--kill-child", *([] if user else ["--user", "--map-root-user"]), "--"],
        *[str(python_executable()), "-I", "-S", "-B", str(_ENTER), json.dumps(setup)],
    ]
