"""The tensors of a checkpoint, read one at a time by name: what every source gives, and safetensors shards.

Nothing is unpickled and, unless asked for, nothing is mapped into memory: a tensor is read when asked for and is gone
when its last reference goes, so that a walk over a checkpoint of any size holds only what it works on. Every source
gives the checkpoint's identity: one SHA-256 over the bytes of every tensor as stored, in the order of the names,
which does not depend on how the checkpoint is cut into shards. GGUF files are read by `base.gguf`.

Format: https://huggingface.co/docs/safetensors
"""

import errno
import hashlib
import json
import math
import mmap
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from submodel.errors import SubmodelError

FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
"""safetensors' names of the dtypes that weights are pruned in."""

_MAPPED = {**FLOATS, "I64": torch.int64, "U8": torch.uint8}
_CHUNK = 1 << 22
_HEADER_LIMIT = 100_000_000  # the limit of the reference implementation


class Source(Protocol):
    """Tensors by name.

    `get` returns memory that nothing else uses, `get_rows` some rows only; `size_bytes` and `sha256` are of all tensors
    as stored, and `prefetch` says which will be read next.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    def get(self, name: str) -> torch.Tensor: ...
    def get_rows(self, name: str, rows: list[int]) -> torch.Tensor: ...
    def sha256(self) -> str: ...
    def prefetch(self, names: list[str]) -> None: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True)
class _Span:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def _read_header(file: Path) -> dict[str, _Span]:
    size = file.stat().st_size
    try:
        with open(file, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > min(size - 8, _HEADER_LIMIT):
                raise ValueError("header longer than the file")
            header: dict[str, Any] = json.loads(f.read(length))
        spans: dict[str, _Span] = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                spans[name] = _Span(file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, 8 + length + end)
        if any(span.end > size for span in spans.values()):
            raise ValueError("data cut short")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise SubmodelError(
            f"{file}: not a whole safetensors file ({error}; {size:,} bytes): fetch it again"
        ) from error
    return spans


class Safetensors:
    """The shards of one checkpoint.

    Raises SubmodelError for a shard that is cut short or not safetensors.
    """

    def __init__(self, files: list[Path]):
        self.files = files
        self._spans: dict[str, _Span] = {}
        for file in files:
            self._spans.update(_read_header(file))
        self._sha256 = ""
        self._open: dict[Path, Any] = {}
        self._maps: dict[Path, mmap.mmap] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._spans))

    @property
    def size_bytes(self) -> int:
        return sum(span.end - span.start for span in self._spans.values())

    def dtype_name(self, name: str) -> str:
        """The dtype of a tensor as safetensors calls it."""
        return self._spans[name].dtype

    def get(self, name: str) -> torch.Tensor:
        span = self._spans[name]
        try:
            return self._opened(span.file).get_tensor(name)
        except SafetensorError as error:
            raise SubmodelError(f"{span.file}: cannot read {name} ({error}): fetch the file again") from error

    def mapped(self, name: str) -> torch.Tensor:
        """A tensor in the file's own pages, read when they are touched; writes do not reach the file."""
        span = self._spans[name]
        dtype = _MAPPED.get(span.dtype)
        if dtype is None or span.start % dtype.itemsize:
            return self.get(name)
        count = math.prod(span.shape)
        if span.end - span.start != count * dtype.itemsize or not count:
            raise SubmodelError(f"{span.file}: {name} is damaged: fetch the file again")
        if span.file not in self._maps:
            with open(span.file, "rb") as f:
                self._maps[span.file] = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(self._maps[span.file], dtype=dtype, count=count, offset=span.start).view(span.shape)

    def _opened(self, file: Path) -> Any:
        if file not in self._open:
            # pread, not mmap: pages of a mapping would stay in the process's memory
            self._open[file] = safe_open(file, framework="pt", backend="pread")
        return self._open[file]

    def get_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Rows of a tensor, read one by one (a slice of `safe_open` reads the whole tensor each time)."""
        span = self._spans[name]
        size = (span.end - span.start) // span.shape[0]
        with open(span.file, "rb") as f:
            data = bytearray(b"".join(os.pread(f.fileno(), size, span.start + row * size) for row in rows))
        return torch.frombuffer(data, dtype=FLOATS[span.dtype]).reshape(len(rows), *span.shape[1:])

    def prefetch(self, names: list[str]) -> None:
        """Ask the kernel to read these tensors ahead; costs no memory of the process."""
        if hasattr(os, "posix_fadvise"):
            for file in {self._spans[name].file for name in names}:
                spans = [self._spans[n] for n in names if self._spans[n].file == file]
                with open(file, "rb") as f:
                    for span in spans:
                        os.posix_fadvise(f.fileno(), span.start, span.end - span.start, os.POSIX_FADV_WILLNEED)

    def sha256(self) -> str:
        def digest(name: str) -> str:
            span = self._spans[name]
            return tensor_digest(name, span.dtype, span.shape, _file_chunks(span))

        self._sha256 = self._sha256 or combined_digest(digest, self.names)
        return self._sha256


def write_tensors(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError when the disk is full, as any other write does."""
    try:
        save_file(tensors, file, metadata)
    except SafetensorError as error:
        full = "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, f"cannot write ({error})", str(file)) from error


def write_stream(file: Path, tensors: Iterable[tuple[str, str, tuple[int, ...], memoryview]]) -> None:
    """Write a safetensors file from (name, dtype as safetensors names it, shape, bytes), one tensor in memory.

    The names must come in ascending order; the bytes are then those that the reference implementation writes.
    """
    header: dict[str, Any] = {}
    at = 0
    data = file.with_name(f"{file.name}.data")
    with open(data, "wb") as f:
        for name, dtype, shape, content in tensors:
            size = f.write(content)
            header[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(data, "rb") as f, open(file, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(f, out, _CHUNK)
    data.unlink()


def _file_chunks(span: _Span) -> Iterator[bytes]:
    with open(span.file, "rb") as f:
        f.seek(span.start)
        remaining = span.end - span.start
        while remaining:
            chunk = f.read(min(_CHUNK, remaining))
            if not chunk:
                raise SubmodelError(f"{span.file}: the file ends early: fetch it again")
            remaining -= len(chunk)
            yield chunk


def tensor_digest(name: str, dtype: str, shape: tuple[int, ...], chunks: Iterator[bytes]) -> str:
    """The line of a tensor in what `combined_digest` hashes."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return f"{name} {dtype} {list(shape)} {digest.hexdigest()}\n"


def combined_digest(entry: Callable[[str], str], names: tuple[str, ...]) -> str:
    """A checkpoint's identity, from the lines of its tensors."""
    # hashlib releases the interpreter lock, so the tensors are hashed on all cores
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return hashlib.sha256("".join(pool.map(entry, names)).encode()).hexdigest()
