"""The header of a GGUF file: its keys, and where its tensors lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from submodel.errors import SubmodelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FLOAT32, _STRING, _ARRAY = 6, 8, 9
_MOST_DIMENSIONS = 4
_VERSIONS = (2, 3)
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        name: as the file calls it.
        kind: the number of its type.
        shape: in torch's order, the last dimension contiguous.
        file: the file that holds it.
        start: its first byte there.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    file: Path
    start: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        file: the file.
        fields: its keys; strings as str, or bytes where they are no UTF-8; arrays as lists.
        tensors: in the order of the file.
    """

    file: Path
    fields: dict[str, Any]
    tensors: tuple[Tensor, ...]


class _Damaged(Exception):
    """The bytes are no GGUF header."""


def read_header(file: Path) -> Header:
    """The header of one file. Raises SubmodelError for one that is cut short or no GGUF."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as f:
            beginning = f.read(len(_LFS))
            if beginning == _LFS:
                raise SubmodelError(f"{file}: a Git LFS pointer, not the file itself: run git lfs pull")
            if beginning[:4] != b"GGUF":
                raise _Damaged(f"it begins with {beginning[:4]!r}")
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(file, _Cursor(data))
    except _Damaged as error:
        raise SubmodelError(f"{file}: not a whole GGUF file ({error}; {size:,} bytes): fetch it again") from error
    except OSError as error:
        raise SubmodelError(f"{file}: cannot be read ({error.strerror or error})") from error


def _parse(file: Path, cursor: "_Cursor") -> Header:
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        if version & 0xFFFF == 0:
            raise SubmodelError(
                f"{file}: a big-endian GGUF file: convert it with gguf-convert-endian of the gguf package"
            )
        raise SubmodelError(f"{file}: GGUF version {version}: versions 2 and 3 are read: convert the model again")
    tensors, keys = cursor.scalar("Q"), cursor.scalar("Q")
    fields: dict[str, Any] = {}
    for _ in range(keys):
        name = cursor.text()
        if name in fields:
            raise _Damaged(f"the key {name} twice")
        fields[name] = cursor.value(cursor.scalar("I"))
    entries: list[tuple[str, int, tuple[int, ...], int]] = []
    for _ in range(tensors):
        name, dimensions = cursor.text(), cursor.scalar("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _Damaged(f"{name} of {dimensions} dimensions")
        shape = tuple(cursor.scalar("Q") for _ in range(dimensions))[::-1]
        entries.append((name, cursor.scalar("I"), shape, cursor.scalar("Q")))
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise _Damaged(f"general.alignment {alignment}")
    data = cursor.at + -cursor.at % alignment
    return Header(file, fields, tuple(Tensor(name, kind, shape, file, data + at) for name, kind, shape, at in entries))


class _Cursor:
    """Reads the header from its beginning to its end."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self.at = 0

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise _Damaged("the header is cut short")
        self.at += size
        return self._data[self.at - size : self.at]

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", self._take(struct.calcsize(form)))
        return value

    def text(self) -> str:
        content = self._take(self.scalar("Q"))
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise _Damaged(f"the name {content[:32]!r}") from error

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            inner, count = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                values = np.frombuffer(self._take(count * struct.calcsize(_SCALARS[inner])), f"<{_SCALARS[inner]}")
                return values.tolist()
            if count > len(self._data) - self.at:
                raise _Damaged("an array longer than the file")
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            raise _Damaged(f"a value of type {kind}")
        value = self.scalar(_SCALARS[kind])
        return _shortest(value) if kind == _FLOAT32 else value

    def _string(self) -> str | bytes:
        content = self._take(self.scalar("Q"))
        try:
            return content.decode()
        except UnicodeDecodeError:
            return content


def _shortest(value: float) -> float:
    """The decimal that was written: 1e-05 for the float32 that is nearest to it."""
    return float(str(np.float32(value)))
