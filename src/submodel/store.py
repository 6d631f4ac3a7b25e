"""A store: one base model and many sub-models of it on disk, each a set of masks with its recipe.

Layout, encodings and digests are specified in docs/format.md. Everything is written to a temporary name and
renamed; a manifest is the last file of its sub-model; nothing is ever unpickled. The masks of the second and
later sub-models are coded by their differences from the first one's.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from submodel import masks
from submodel.errors import SubmodelError, unknown_name
from submodel.weights import write_tensors

FORMAT = 1
_ENCODINGS = ("bits", "gaps", "gaps-from-reference")
_SAMPLE_BYTES = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Mask:
    """One matrix's packed mask: uint8 (..., ceil(cols / 8)) and the number of columns."""

    packed: masks.Packed
    cols: int

    @property
    def weights(self) -> int:
        return int(np.prod(self.packed.shape[:-1])) * self.cols

    def unpack(self) -> np.ndarray:
        """bool (..., cols), True = kept."""
        return masks.unpack(self.packed, self.cols)


Masks = Mapping[str, Mask]


def digest(model: Masks) -> str:
    """SHA-256 of a set of masks, whatever their encoding on disk."""
    whole = hashlib.sha256()
    for name in sorted(model):
        whole.update(f"{name} {[*model[name].packed.shape[:-1], model[name].cols]}\n".encode())
        whole.update(np.ascontiguousarray(model[name].packed).tobytes())
    return whole.hexdigest()


class Store:
    """An opened store.

    Attributes:
        path: its directory.
        base: the base's reference, weight digest and size, as in store.json.
    """

    def __init__(self, path: Path):
        self.path = path
        document = _read_json(path / "store.json", f"{path}: not a store (no readable store.json)")
        if document.get("kind") != "submodel store":
            raise SubmodelError(f"{path}: not a store: its store.json is of another program")
        if document.get("format") != FORMAT:
            raise SubmodelError(
                f"{path}: its format is {document.get('format')}, this version reads {FORMAT}: upgrade submodel"
            )
        self.base: dict[str, Any] = document["base"]

    @property
    def names(self) -> list[str]:
        """The names of the sub-models, the oldest first."""
        return sorted(self._folders(), key=lambda name: (self.manifest(name)["created"], name))

    def _folders(self) -> list[str]:
        return [file.parent.name for file in self.path.glob("submodels/[!.]*/manifest.json")]

    def manifest(self, name: str) -> dict[str, Any]:
        """A sub-model's recipe. Raises SubmodelError when there is none of this name or it is damaged."""
        file = self.path / "submodels" / name / "manifest.json"
        if not file.is_file():
            raise unknown_name(
                f"sub-model of {self.path}", name, (f.parent.name for f in file.parent.parent.glob("*/manifest.json"))
            )
        manifest = _read_json(file, f"{file}: damaged")
        if manifest.get("format") != FORMAT:
            raise SubmodelError(f"{file}: its format is {manifest.get('format')}, this version reads {FORMAT}")
        return manifest

    def masks(self, name: str) -> dict[str, Mask]:
        """A sub-model's masks, checked against the digest in its manifest."""
        manifest = self.manifest(name)
        file = self.path / "submodels" / name / "masks.safetensors"
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise SubmodelError(f"{file}: cut short or damaged ({error}): extract {name} again") from error
        reference = manifest["masks"]["reference"]
        against = self.masks(reference) if reference is not None else {}
        found: dict[str, Mask] = {}
        for matrix, entry in manifest["matrices"].items():
            shape = (*entry["shape"][:-1], -(-entry["shape"][-1] // 8))
            if matrix not in tensors:
                raise SubmodelError(f"{file}: {matrix} is missing: extract {name} again")
            data = tensors[matrix]
            if entry["encoding"] == "bits":
                if data.shape != shape:
                    raise SubmodelError(
                        f"{file}: {matrix} has shape {data.shape}, expected {shape}: extract {name} again"
                    )
                packed = data
            elif entry["encoding"] == "gaps":
                packed = masks.decode(data.tobytes(), shape)
            elif entry["encoding"] == "gaps-from-reference":
                packed = masks.decode(data.tobytes(), shape, against[matrix].packed)
            else:
                raise unknown_name(
                    f"mask encoding in {file}", entry["encoding"], ("bits", "gaps", "gaps-from-reference")
                )
            found[matrix] = Mask(packed, entry["shape"][-1])
        if digest(found) != manifest["masks"]["sha256"]:
            raise SubmodelError(f"{file}: altered: its masks are not those of the manifest: extract {name} again")
        return found

    def size_bytes(self, name: str) -> int:
        """What a sub-model's masks take on disk."""
        return (self.path / "submodels" / name / "masks.safetensors").stat().st_size

    def add(self, name: str, model: Masks, recipe: dict[str, Any]) -> dict[str, Any]:
        """Write a sub-model.

        Args:
            name: its name in the store.
            model: its masks.
            recipe: goes into the manifest beside what this function knows itself.

        Returns:
            The manifest.

        Raises:
            SubmodelError: the name is not allowed or taken.
        """
        check_name(name)
        folder = self.path / "submodels" / name
        if (folder / "manifest.json").exists():
            raise SubmodelError(f"{self.path}@{name}: already there: give another --name or remove {folder}")
        reference, against = self._reference(model)
        tensors: dict[str, torch.Tensor] = {}
        entries: dict[str, Any] = {}
        for matrix, mask in model.items():
            coded, encoding = _encode(mask, against.get(matrix))
            tensors[matrix] = torch.from_numpy(np.array(coded))
            entries[matrix] = {
                "shape": [*mask.packed.shape[:-1], mask.cols],
                "encoding": encoding,
                "sparsity": 1 - masks.popcount(mask.packed) / mask.weights,
            }
        if not any(entry["encoding"] == "gaps-from-reference" for entry in entries.values()):
            reference = None
        manifest = {
            "format": FORMAT,
            "name": name,
            **recipe,
            "masks": {"sha256": digest(model), "reference": reference},
            "matrices": entries,
        }
        shutil.rmtree(folder, ignore_errors=True)  # what a killed writer left has no manifest
        partial = folder.parent / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write_tensors(partial / "masks.safetensors", tensors)
            _sync(partial / "masks.safetensors")
            write_json(partial / "manifest.json", manifest)
            os.replace(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return manifest

    def _reference(self, model: Masks) -> tuple[str | None, dict[str, Mask]]:
        """The first sub-model, if it is coded by itself and has the same matrices."""
        shapes = {matrix: [*mask.packed.shape[:-1], mask.cols] for matrix, mask in model.items()}
        for name in self.names:
            manifest = self.manifest(name)
            if manifest["masks"]["reference"] is None:
                if shapes == {matrix: entry["shape"] for matrix, entry in manifest["matrices"].items()}:
                    return name, self.masks(name)
        return None, {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out while one writes. Raises SubmodelError when another holds it."""
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SubmodelError(f"{self.path}: another process is writing to it: wait for it to end") from error
            yield


def _encode(mask: Mask, reference: Mask | None) -> tuple[np.ndarray, str]:
    """The smallest encoding. Gaps by themselves are tried only if a sample says that they pay (at half the weights
    of a row in no pattern they never do)."""
    coded = {"bits": mask.packed}
    sample = mask.packed.reshape(-1)[:_SAMPLE_BYTES]
    if len(masks.encode(sample)) < 0.95 * len(sample):
        coded["gaps"] = np.frombuffer(masks.encode(mask.packed), dtype=np.uint8)
    if reference is not None:
        against = masks.encode(mask.packed, reference.packed)
        coded["gaps-from-reference"] = np.frombuffer(against, dtype=np.uint8)
    encoding = min(coded, key=lambda key: coded[key].nbytes)
    return coded[encoding], encoding


def open_or_create(path: Path, base: dict[str, Any]) -> Store:
    """The store at `path`, made if there is none.

    Args:
        path: its directory.
        base: `reference`, `sha256` and `size_bytes` of the base model.

    Raises:
        SubmodelError: there is something else, or a store of another base.
    """
    if (path / "store.json").exists():
        store = Store(path)
        if store.base["sha256"] != base["sha256"]:
            raise SubmodelError(
                f"{path}: a store of another base ({store.base['reference']}, weights {store.base['sha256'][:12]}; "
                f"given {base['reference']}, weights {base['sha256'][:12]}): give another --out"
            )
        return store
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SubmodelError(f"{path}: there is something else: give a new directory or a store for --out")
    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "store.json", {"kind": "submodel store", "format": FORMAT, "base": base})
    return Store(path)


def check_name(name: str) -> None:
    """Raises SubmodelError unless `name` can be a sub-model's: letters, digits and . _ + - after the first."""
    if not _NAME.fullmatch(name):
        raise SubmodelError(f"name {name!r}: letters and digits first, then also . _ + -")


def split_reference(reference: str) -> tuple[Path, str] | None:
    """`STORE@NAME` -> (store, name); None for anything else."""
    path, at, name = reference.rpartition("@")
    if at and _NAME.fullmatch(name) and not Path(reference).exists():
        return Path(path).expanduser(), name
    return None


def write_json(file: Path, document: Any) -> None:
    """Write a document to a temporary name, flush it to the disk and rename it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    _sync(partial)
    os.replace(partial, file)


def _sync(file: Path) -> None:
    with open(file, "rb") as f:
        os.fsync(f.fileno())


def _read_json(file: Path, refusal: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SubmodelError(f"{refusal} ({type(error).__name__}): give a directory made by submodel extract") from error
    if not isinstance(document, dict):
        raise SubmodelError(f"{refusal}: give a directory made by submodel extract")
    return document
