"""Compiled programs by content: equal programs compile once, also when two threads ask at the same time."""

import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from submodel.tasks.judge.one_time_number import CompileError


class CompileCache:
    """Files in `folder`, or in a private directory that goes away with this object. Failures are kept in memory."""

    def __init__(self, folder: Path | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="submodel-compiled-")) if folder is None else folder
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.compiled = 0  # how often a compiler ran
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._failures: dict[str, str] = {}

    def get(self, what: str, source: bytes, suffix: str, make: Callable[[], bytes]) -> Path:
        """The file that `make` returns the content of; `what` names the compiler and its options. CompileError."""
        key = hashlib.sha256(what.encode() + b"\0" + source).hexdigest()
        path = self.folder / f"{key}{suffix}"
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key in self._failures:
                raise CompileError(self._failures[key])
            if not path.exists():
                self.compiled += 1
                try:
                    content = make()
                except CompileError as error:
                    self._failures[key] = str(error)
                    raise
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.chmod(0o755)  # it runs as another user
                os.replace(part, path)
        return path
