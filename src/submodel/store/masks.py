"""The masks and rewritten weights of a sub-model as files: written in their smallest encoding, read one at a time.

docs/reference/format.md specifies encodings and digests. `tests/test_store.py` holds it byte by byte.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from submodel.base.files import sync
from submodel.base.weights import FLOATS, write_stream
from submodel.errors import SubmodelError, unknown_name
from submodel.prune.mask import Mask, Masks, Packed, popcount
from submodel.store.encoding import decode, encode

_ENCODINGS = ("bits", "gaps", "gaps-from-reference")
_SAMPLE_BYTES = 1 << 14
_DTYPES = {dtype: name for name, dtype in FLOATS.items()}
_Written = tuple[str, str, tuple[int, ...], memoryview]


class StoredMasks(Mapping[str, Mask]):
    """A sub-model's masks in its files: each is read, decoded and checked when asked for, and not kept."""

    def __init__(self, folder: Path, manifest: dict[str, Any], reference: Masks):
        self._file = folder / "masks.safetensors"
        self._entries: dict[str, Any] = manifest["matrices"]
        self._reference = reference
        self._again = f"extract {manifest['name']} again"
        self._grid: str | None = manifest.get("grid")
        self._tensors = self._open(self._file, "numpy")
        self._values_file = folder / "weights.safetensors"
        self._values: Any = self._open(self._values_file, "pt") if "weights" in manifest else None

    def _open(self, file: Path, framework: str) -> Any:
        try:
            tensors: Any = safe_open(file, framework=framework, backend="pread")
        except (SafetensorError, OSError) as error:
            raise SubmodelError(f"{file}: cut short or damaged ({error}): {self._again}") from error
        lost = sorted(set(self._entries) - set(tensors.keys()))
        if lost:
            raise SubmodelError(f"{file}: {lost[0]} is missing: {self._again}")
        return tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, matrix: str) -> Mask:
        entry = self._entries[matrix]
        *rows, cols = entry["shape"]
        shape = (*rows, -(-cols // 8))
        data = self._tensors.get_tensor(matrix)
        if entry["encoding"] not in _ENCODINGS:
            raise unknown_name(f"mask encoding in {self._file}", entry["encoding"], _ENCODINGS)
        if entry["encoding"] == "bits":
            packed = data
        elif entry["encoding"] == "gaps":
            packed = decode(data.tobytes(), shape)
        else:
            packed = decode(data.tobytes(), shape, self._reference[matrix].packed)
        if packed.shape != shape or digest(packed) != entry["sha256"]:
            raise SubmodelError(f"{self._file}: altered: {matrix} is not that of the manifest: {self._again}")
        values = None if self._values is None else lambda: self._read_values(matrix)
        return Mask(packed, cols, values, self._grid)

    def _read_values(self, matrix: str) -> torch.Tensor:
        values = self._values.get_tensor(matrix)
        if _describe(values) != self._entries[matrix]["values"]:
            raise SubmodelError(f"{self._values_file}: altered: {matrix} is not that of the manifest: {self._again}")
        return values


def digest(packed: Packed) -> str:
    """SHA-256 of one packed mask, whatever its encoding on disk."""
    return hashlib.sha256(np.ascontiguousarray(packed).data).hexdigest()


def write_masks(folder: Path, model: Masks, against: Masks) -> dict[str, Any]:
    """Write `masks.safetensors` and, of masks with values, `weights.safetensors`.

    Args:
        folder: of the sub-model.
        model: its masks, all of them or none with values.
        against: the masks of the reference that gaps may be counted from.

    Returns:
        The manifest's `matrices`.
    """
    entries: dict[str, Any] = {}
    write_stream(folder / "masks.safetensors", _encoded(model, against, entries))
    sync(folder / "masks.safetensors")
    if any(mask.values is not None for mask in model.values()):
        write_stream(folder / "weights.safetensors", _values(model, entries))
        sync(folder / "weights.safetensors")
    return entries


def _encoded(model: Masks, against: Masks, entries: dict[str, Any]) -> Iterator[_Written]:
    """Every mask in its smallest encoding, by name; what the manifest says of it goes into `entries`."""
    for name in sorted(model):
        mask = model[name]
        reference = against[name] if name in against else None
        if reference is not None and reference.packed.shape != mask.packed.shape:
            reference = None
        data, encoding = _encode(mask, reference)
        entries[name] = {
            "shape": [*mask.packed.shape[:-1], mask.cols],
            "encoding": encoding,
            "sparsity": 1 - popcount(mask.packed) / mask.weights,
            "sha256": digest(mask.packed),
        }
        yield name, "U8", data.shape, np.ascontiguousarray(data).data


def _values(model: Masks, entries: dict[str, Any]) -> Iterator[_Written]:
    """The new values of every matrix, by name; what the manifest says of them goes into `entries`."""
    for name in sorted(model):
        read = model[name].values
        assert read is not None, f"{name} has no values"
        values = read()
        entries[name]["values"] = _describe(values)
        yield name, _DTYPES[values.dtype], tuple(values.shape), _bytes_of(values)


def _describe(values: torch.Tensor) -> dict[str, Any]:
    return {
        "dtype": _DTYPES[values.dtype],
        "count": values.numel(),
        "sha256": hashlib.sha256(_bytes_of(values)).hexdigest(),
    }


def _bytes_of(values: torch.Tensor) -> memoryview:
    return values.contiguous().view(torch.uint8).numpy().data


def _encode(mask: Mask, reference: Mask | None) -> tuple[np.ndarray, str]:
    """The smallest encoding. Gaps by themselves are tried only if a sample says that they pay."""
    coded: dict[str, np.ndarray] = {"bits": mask.packed}
    sample = mask.packed.reshape(-1)[:_SAMPLE_BYTES]
    if len(encode(sample)) < 0.95 * len(sample):
        coded["gaps"] = np.frombuffer(encode(mask.packed), dtype=np.uint8)
    if reference is not None:
        against = encode(mask.packed, reference.packed)
        coded["gaps-from-reference"] = np.frombuffer(against, dtype=np.uint8)
    encoding = min(coded, key=lambda key: coded[key].nbytes)
    return coded[encoding], encoding
