"""What a sandboxed program sees of this machine: the system's programs and libraries and the Python that runs us.

No home directories, no /etc beyond what the linker and the tool chains read, an environment of three variables.
"""

import sys
import sysconfig
from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    **{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"},
    "shm": "/tmp",  # semaphores, which multiprocessing needs, lie in the private directory, whose files are bounded
}
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/java-*")


def system_paths() -> list[Path]:
    """Directories and links of the system to show; a link is to be made again, not followed."""
    etc = [path for pattern in _ETC for path in sorted(Path("/").glob(pattern[1:]))]
    return [path for name in _SYSTEM if (path := Path(name)).exists()] + etc


def python_paths() -> list[Path]:
    """Where this interpreter, its standard library and the installed packages lie."""
    return outside_system([Path(sys.base_prefix).resolve(), *site_packages()])


def site_packages() -> list[Path]:
    """The directories of installed packages of the running interpreter."""
    return sorted({Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")})


def python_executable() -> Path:
    """The interpreter itself, not the link to it in a virtual environment."""
    return Path(sys.executable).resolve()


def tool_paths(executable: Path) -> list[Path]:
    """What to mount so that a tool installed outside of the system's directories runs: the prefix of its bin."""
    real = executable.resolve()
    return outside_system([real.parent.parent if real.parent.name == "bin" else real.parent])


def outside_system(paths: list[Path]) -> list[Path]:
    """Those of `paths` that exist and that `system_paths` does not show already, each once."""
    shown = [path for path in system_paths() if not path.is_symlink()]
    kept = [path for path in dict.fromkeys(paths) if path.exists()]
    return [path for path in kept if not any(path.is_relative_to(root) for root in shown)]
