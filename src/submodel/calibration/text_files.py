"""The text of one file, or why it has none.

A byte order mark says how a file is encoded; without one it is UTF-8, or what a Python or Ruby file declares itself.
Pipes, devices and sockets are never read, since reading them may wait for ever or have an effect.
"""

import codecs
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from submodel.errors import SubmodelError

LARGEST_TEXT = 1 << 30
"""Bytes of a text file, or of one line of JSON lines: far beyond any calibration, and still within memory."""

# the marks of UTF-32 begin like those of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"\A(?:[ \t\f]*(?:#.*)?\r?\n)?[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_DECLARING = (".py", ".rb")
_EMACS_ENDING = re.compile("-(unix|dos|mac)$")  # of lines, as Emacs writes it behind an encoding
_POINTERS = {
    "Git LFS pointer": re.compile(
        rb"version (https://git-lfs\.github\.com/spec/|http://git-media\.io/v/|https://hawser\.github\.com/spec/)"
    ),
    "git-annex pointer": re.compile(rb"/annex/objects/"),
}
_LARGEST_POINTER = 1024  # bytes: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_FETCH = {"Git LFS pointer": "git lfs pull", "git-annex pointer": "git annex get"}
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


class NoText(Exception):
    """A file has no text; the message says why in a few words, such as "binary"."""


def read_regular(file: Path, most: int) -> bytes:
    """The bytes of a regular file that has at most `most` of them.

    Raises NoText for one that is larger, of another kind, or cannot be read.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise NoText("special file")
        # it may have become a pipe meanwhile: never wait for a writer
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NoText("special file")
            if status.st_size > most:
                raise NoText("too large")
            return f.read(most)
    except FileNotFoundError as error:
        raise NoText("absent") from error
    except (OSError, ValueError) as error:
        raise NoText("unreadable") from error


def decode(data: bytes, name: str = "") -> str:
    """Bytes of a file called `name` as text, without a byte order mark and with line ends as "\\n".

    Raises NoText for bytes that are no text, or in another encoding than the file says.
    """
    if (pointer := pointer_kind(data)) is not None:
        raise NoText(pointer)
    encoding = encoding_of(data) or _declared(data, name) or "utf-8"
    try:
        text = data.decode(encoding)
        text.encode()  # UTF-16 and some codecs let half of a surrogate pair through
    except (UnicodeError, LookupError) as error:
        name_of = encoding.removesuffix("-sig").upper()
        raise NoText("binary" if encoding == "utf-8" and b"\0" in data else f"not {name_of}") from error
    if "\0" in text:
        raise NoText("binary")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def encoding_of(data: bytes) -> str | None:
    """The encoding that a byte order mark at the start says; None where there is none."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def pointer_kind(data: bytes) -> str | None:
    """What stands in for a file's content, such as "Git LFS pointer"; None where it is the content itself."""
    if len(data) > _LARGEST_POINTER:
        return None
    return next((kind for kind, start in _POINTERS.items() if start.match(data)), None)


def refuse_unreadable(path: Path) -> None:
    """Raises SubmodelError where `path`, which a person named, is no regular file or stands for another."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SubmodelError(f"{path}: cannot be read ({why}): give JSONL, parquet, text or a source tree") from error
    if kind != stat.S_IFREG:
        raise SubmodelError(f"{path}: {_KINDS.get(kind, 'a special file')}, which is not read: write it to a file")
    try:
        with open(path, "rb") as f:
            pointer = pointer_kind(f.read(_LARGEST_POINTER + 1))
    except OSError as error:
        raise SubmodelError(f"{path}: cannot be read ({error.strerror}): make it readable") from error
    if pointer:
        raise SubmodelError(f"{path}: a {pointer}, not the file itself: fetch it with {_FETCH[pointer]}")


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """A text file, plain or .gz, in the encoding that its byte order mark says, else UTF-8.

    Raises SubmodelError where it is no regular file, or stands for another; reading raises what `UNREADABLE` names.
    """
    refuse_unreadable(path)
    data = gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    with data, io.TextIOWrapper(data, encoding=encoding_of(data.peek(4)[:4]) or "utf-8") as text:
        yield text


UNREADABLE = (OSError, EOFError, zlib.error, UnicodeError)


def _declared(data: bytes, name: str) -> str | None:
    declared = _DECLARED.match(data[:1000]) if name.endswith(_DECLARING) else None
    return _EMACS_ENDING.sub("", declared[1].decode()) if declared else None
