"""The tensors of a GGUF model, dequantised as they are read, under the model's own parameter names."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.base.gguf.header import Tensor
from submodel.base.gguf.parts import read_parts
from submodel.base.weights import combined_digest, tensor_digest
from submodel.errors import SubmodelError

_CHUNK = 1 << 22
_FLOATS = {"F32": torch.float32, "F16": torch.float16}


@dataclass(frozen=True)
class Piece:
    """Values of the file that a parameter of the model is made of.

    Attributes:
        tensor: as the file calls it.
        change: from the file's layout to the model's; None if they are one.
    """

    tensor: str
    change: Any = None


class Gguf:
    """A GGUF model, in one file or in parts.

    Args:
        file: the .gguf file, or any part of a split one.
        dtype: what the dequantised values are rounded to. If None: as stored where all matrices are F32, or all F16,
            else bfloat16.

    Attributes:
        file: the first of its files.
        fields: the keys of its header.
        tensors: where its tensors lie, by their names in the file.

    `bind` must be called before a tensor is read by the model's name of it.

    Raises:
        SubmodelError: not a whole GGUF file, a part is missing, or a tensor has a type that is not known.
    """

    def __init__(self, file: Path, dtype: torch.dtype | None = None):
        try:
            import gguf
        except ImportError as error:
            raise SubmodelError(f"{file}: reading GGUF needs the gguf package: pip install 'submodel[gguf]'") from error
        headers = read_parts(file)
        self.file = headers[0].file
        self.fields: Mapping[str, Any] = headers[0].fields
        self.tensors: dict[str, Tensor] = {}
        self._maps: dict[Path, np.memmap] = {}
        for header in headers:
            for tensor in header.tensors:
                if tensor.name in self.tensors:
                    raise SubmodelError(f"{header.file}: {tensor.name} occurs twice: fetch the model again")
                self.tensors[tensor.name] = tensor
        self._kinds = {name: _kind(tensor, gguf) for name, tensor in self.tensors.items()}
        self._sizes = {name: self._checked_size(tensor, gguf) for name, tensor in self.tensors.items()}
        self.dtype = dtype or self._stored_dtype()
        self._pieces: dict[str, tuple[Piece, ...]] = {}
        self._zeros: dict[str, tuple[int, ...]] = {}
        self._sha256 = ""

    def _checked_size(self, tensor: Tensor, gguf: Any) -> int:
        """A tensor's bytes, all of which the file holds."""
        block, block_bytes = gguf.GGML_QUANT_SIZES[self._kinds[tensor.name]]
        size, available = math.prod(tensor.shape) // block * block_bytes, tensor.file.stat().st_size
        if not tensor.shape or tensor.shape[-1] % block or tensor.start + size > available:
            raise SubmodelError(
                f"{tensor.file}: not a whole GGUF file ({tensor.name} of {'x'.join(map(str, tensor.shape))} in "
                f"{self._kinds[tensor.name].name} does not fit; {available:,} bytes): fetch it again"
            )
        return size

    def _stored_dtype(self) -> torch.dtype:
        stored = {self._kinds[name].name for name, tensor in self.tensors.items() if len(tensor.shape) > 1}
        return _FLOATS.get(stored.pop(), torch.bfloat16) if len(stored) == 1 else torch.bfloat16

    def bind(self, pieces: Mapping[str, tuple[Piece, ...]], zeros: Mapping[str, tuple[int, ...]]) -> None:
        """Learn the model's parameters.

        Args:
            pieces: what each is made of, joined along its second dimension if there are several.
            zeros: the shapes of those that the file leaves out because they are zero.
        """
        self._pieces, self._zeros = dict(pieces), dict(zeros)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({**self._pieces, **self._zeros}))

    @property
    def size_bytes(self) -> int:
        return sum(self._sizes.values())

    def get(self, name: str) -> torch.Tensor:
        if name in self._zeros:
            return torch.zeros(self._zeros[name], dtype=self.dtype)
        values = [_changed(piece, self.array(piece.tensor)) for piece in self._pieces[name]]
        return torch.tensor(values[0] if len(values) == 1 else np.concatenate(values, axis=1), dtype=self.dtype)

    def get_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Rows of a tensor; where its layout is the model's only those are dequantised."""
        first, *others = self._pieces[name]
        if others or first.change is not None:
            return self.get(name)[rows]
        return torch.tensor(self.array(first.tensor, rows), dtype=self.dtype)

    def array(self, name: str, rows: list[int] | None = None) -> np.ndarray:
        """A tensor's values in float32, by its name in the file; some rows of them, or all."""
        from gguf import dequantize

        tensor, kind = self.tensors[name], self._kinds[name]
        stored = self._mapped(name).reshape(*tensor.shape[:-1], -1)
        if rows is not None:
            stored = stored[rows]
        if kind.name == "F64":
            return np.ascontiguousarray(stored).view("<f8").astype(np.float32)
        return dequantize(np.ascontiguousarray(stored), kind)

    def _mapped(self, name: str) -> np.ndarray:
        """A tensor's bytes in the file's own pages, read when they are touched."""
        tensor = self.tensors[name]
        if tensor.file not in self._maps:
            self._maps[tensor.file] = np.memmap(tensor.file, mode="r")
        return self._maps[tensor.file][tensor.start : tensor.start + self._sizes[name]]

    def prefetch(self, names: list[str]) -> None:
        """The files are mapped; the kernel reads ahead by itself."""

    def sha256(self) -> str:
        def chunks(name: str) -> Iterator[bytes]:
            content = self._mapped(name)
            for at in range(0, len(content), _CHUNK):
                yield content[at : at + _CHUNK].tobytes()

        def digest(name: str) -> str:
            return tensor_digest(name, self._kinds[name].name, self.tensors[name].shape[::-1], chunks(name))

        self._sha256 = self._sha256 or combined_digest(digest, tuple(sorted(self.tensors)))
        return self._sha256


def _changed(piece: Piece, values: np.ndarray) -> np.ndarray:
    return values if piece.change is None else piece.change(values)


def _kind(tensor: Tensor, gguf: Any) -> Any:
    """A tensor's type. Raises SubmodelError for one whose values cannot be read."""
    another = "give the model in another type, such as F16, Q8_0 or Q4_K_M"
    try:
        kind = gguf.GGMLQuantizationType(tensor.kind)
    except ValueError:
        raise SubmodelError(
            f"{tensor.file}: {tensor.name} has the type {tensor.kind}, which the gguf package that is installed does "
            f"not know: upgrade it (pip install -U gguf), or {another}"
        ) from None
    if not _readable(kind):
        raise SubmodelError(f"{tensor.file}: {tensor.name} has the type {kind.name}, which cannot be read: {another}")
    return kind


@functools.cache
def _readable(kind: Any) -> bool:
    """Whether the gguf package that is installed dequantises a type."""
    import gguf

    try:
        gguf.dequantize(np.zeros(gguf.GGML_QUANT_SIZES[kind][1], np.uint8), kind)
    except NotImplementedError:
        return kind.name == "F64"
    return True
