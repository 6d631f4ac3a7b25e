"""An extraction under way: what it has decided so far, in a folder of the store that the same command finds again."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from submodel import store
from submodel.base.weights import write_tensors
from submodel.prune.mask import pack_bits
from submodel.walk import Pruned

_VALUES = " values"


class Work:
    """The folder of an extraction under way: a file of masks and new weights per block, beside the walk's own files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._unseen: dict[str, list[str]] = {}

    @staticmethod
    def place(target: store.Store, keys: dict[str, str]) -> Path:
        """Where a walk for these sub-models, name -> key of the recipe, stands or stood."""
        return target.path / "work" / hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]

    def note_unseen(self, domain: str, expert: str) -> None:
        """No token of the domain reached this expert of the block that comes next to `keep`."""
        self._unseen.setdefault(domain, []).append(expert)

    def keep(self, block: int, found: dict[str, dict[str, Pruned]]) -> None:
        """Write what is left of a block, by domain and matrix."""
        tensors: dict[str, torch.Tensor] = {}
        for domain, group in found.items():
            for matrix, left in group.items():
                tensors[f"{domain} {matrix}"] = torch.from_numpy(pack_bits(left.keep.numpy()))
                if left.weight is not None:
                    tensors[f"{domain} {matrix}{_VALUES}"] = left.weight[left.keep]
        cols = {m: left.keep.shape[-1] for group in found.values() for m, left in group.items()}
        partial = self.folder / "block.partial"
        write_tensors(partial, tensors, {"cols": json.dumps(cols), "unseen": json.dumps(self._unseen)})
        os.replace(partial, self.folder / f"block-{block:04d}.safetensors")
        self._unseen = {}

    def result(self, domain: str) -> "KeptMasks":
        """All masks of a domain, and the experts that no token reached."""
        return KeptMasks(sorted(self.folder.glob("block-*.safetensors")), domain)

    def remove(self) -> None:
        """Everything is in the store."""
        shutil.rmtree(self.folder)
        if not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


class KeptMasks(Mapping[str, store.Mask]):
    """A domain's masks in the block files, read one at a time; `unseen` are the experts that no token reached."""

    def __init__(self, files: list[Path], domain: str):
        self._domain = domain
        self._where: dict[str, tuple[Path, int]] = {}
        self.unseen: list[str] = []
        for file in files:
            with safe_open(file, framework="numpy") as f:
                self._where |= {name: (file, cols) for name, cols in json.loads(f.metadata()["cols"]).items()}
                self.unseen += json.loads(f.metadata()["unseen"]).get(domain, [])

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, name: str) -> store.Mask:
        file, cols = self._where[name]
        key = f"{self._domain} {name}"
        with safe_open(file, framework="pt", backend="pread") as f:
            rewritten = key + _VALUES in f.keys()
            return store.Mask(
                f.get_tensor(key).numpy(), cols, (lambda: _read(file, key + _VALUES)) if rewritten else None
            )


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt", backend="pread") as f:
        return f.get_tensor(name)
