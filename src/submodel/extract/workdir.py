"""The work folder of an extraction: what its steps have made so far, where the same command finds it after a kill."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from submodel.base.files import write_json
from submodel.base.weights import write_tensors
from submodel.extract.step import State
from submodel.prune.mask import Mask, Masks, pack_bits
from submodel.prune.sparsity import RowSparsity
from submodel.store.vocabulary import read_vocabulary, write_vocabulary
from submodel.walk import Pruned

_VALUES = " values"
_DONE = "done.json"


class WorkFolder:
    """A folder of the store with one folder for each step that has begun.

    Args:
        store: the store's directory.
        keys: the key of every sub-model that is made; the folder is named after them.
    """

    def __init__(self, store: Path, keys: Iterable[str]):
        self.path = store / "work" / hashlib.sha256(json.dumps(list(keys)).encode()).hexdigest()[:16]

    @property
    def blocks_done(self) -> dict[Path, int]:
        """The blocks that walks in it have done: their files, and when each was written, in nanoseconds."""
        return {file: file.stat().st_mtime_ns for file in self.path.glob("*/block-*.safetensors")}

    def folder(self, index: int, step_name: str) -> Path:
        """The folder of a step, made if it is not there."""
        folder = self.path / f"{index}-{step_name}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def is_done(self, index: int, step_name: str) -> bool:
        """Whether a step has been finished here."""
        return (self.path / f"{index}-{step_name}" / _DONE).is_file()

    def save(self, index: int, step_name: str, before: Mapping[str, State], after: Mapping[str, State]) -> None:
        """Keep what a finished step has made, and throw away what it only needed to go on."""
        folder = self.folder(index, step_name)
        for name, state in after.items():
            if state.sparsities is not before[name].sparsities and state.sparsities is not None:
                counts = {m: s.counts for m, s in state.sparsities.items() if isinstance(s, RowSparsity)}
                write_tensors(folder / f"{name}.counts", {m: c for m, c in counts.items() if c is not None}, {})
            if state.masks is not before[name].masks and not isinstance(state.masks, BlockMasks):
                assert state.masks is not None
                write_masks(folder / f"{name}.masks", name, state.masks)
            if state.vocabulary is not before[name].vocabulary and state.vocabulary is not None:
                write_vocabulary(folder / f"{name}.vocabulary", state.vocabulary)
        write_json(folder / _DONE, {name: dict(state.facts) for name, state in after.items()})
        for file in [*folder.glob("*/hidden.*"), *folder.glob("*/*/hidden.*"), *folder.glob("*.distil")]:
            file.unlink()

    def load(self, index: int, step_name: str, before: Mapping[str, State]) -> dict[str, State]:
        """What a finished step made of the states before it."""
        folder = self.folder(index, step_name)
        result: dict[str, State] = {}
        for name, facts in json.loads((folder / _DONE).read_text()).items():
            state = replace(before[name], facts=facts)
            counts, masks = folder / f"{name}.counts", folder / f"{name}.masks"
            if counts.is_file():
                fractions = facts["matrix_sparsity"]
                with safe_open(counts, framework="pt") as file:
                    sparsities = {m: RowSparsity(fractions[m], file.get_tensor(m)) for m in fractions}
                state = replace(state, sparsities=sparsities)
            if masks.is_file():
                state = replace(state, masks=BlockMasks([masks], name))
            elif blocks := sorted(folder.glob("block-*.safetensors")):
                state = replace(state, masks=BlockMasks(blocks, name))
            if (vocabulary := folder / f"{name}.vocabulary").is_file():
                state = replace(state, vocabulary=read_vocabulary(vocabulary, facts["vocabulary"]["rows"]))
            result[name] = state
        return result

    def remove(self) -> None:
        """Everything is in the store."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


class BlockFiles:
    """What a walk has kept: a file of masks and new weights for each block, beside the walk's own files."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._unseen: dict[str, list[str]] = {}

    def note_unseen(self, domain: str, expert: str) -> None:
        """No token of the domain reached this expert of the block that comes next to `keep`."""
        self._unseen.setdefault(domain, []).append(expert)

    def keep(self, block: int, pruned: dict[str, dict[str, Pruned]]) -> None:
        """Write what is kept of a block, by domain and matrix."""
        tensors: dict[str, torch.Tensor] = {}
        for domain, matrices in pruned.items():
            for matrix, result in matrices.items():
                tensors[f"{domain} {matrix}"] = torch.from_numpy(pack_bits(result.keep.numpy()))
                if result.weight is not None:
                    tensors[f"{domain} {matrix}{_VALUES}"] = result.weight[result.keep]
        cols = {name: result.keep.shape[-1] for matrices in pruned.values() for name, result in matrices.items()}
        _write(self._folder / f"block-{block:04d}.safetensors", tensors, cols, self._unseen)
        self._unseen = {}

    def masks(self, domain: str) -> "BlockMasks":
        """All masks of a domain."""
        return BlockMasks(sorted(self._folder.glob("block-*.safetensors")), domain)


class BlockMasks(Mapping[str, Mask]):
    """A domain's masks in files, read one at a time; `unseen` are the experts that no token reached."""

    def __init__(self, files: list[Path], domain: str):
        self._domain = domain
        self._files: dict[str, tuple[Path, int]] = {}
        self.unseen: list[str] = []
        for path in files:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata()
                self._files |= {name: (path, cols) for name, cols in json.loads(metadata["cols"]).items()}
                self.unseen += json.loads(metadata["unseen"]).get(domain, [])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, name: str) -> Mask:
        path, cols = self._files[name]
        key = f"{self._domain} {name}"
        with safe_open(path, framework="pt", backend="pread") as file:
            rewritten = key + _VALUES in file.keys()
            packed = file.get_tensor(key).numpy()
        return Mask(packed, cols, (lambda: _read(path, key + _VALUES)) if rewritten else None)


def write_masks(path: Path, domain: str, masks: Masks) -> None:
    """Write all masks of a domain into one file that `BlockMasks` reads."""
    tensors: dict[str, torch.Tensor] = {}
    for name, mask in masks.items():
        tensors[f"{domain} {name}"] = torch.from_numpy(mask.packed)
        if mask.values is not None:
            tensors[f"{domain} {name}{_VALUES}"] = mask.values()
    _write(path, tensors, {name: mask.cols for name, mask in masks.items()}, {})


def _write(
    path: Path, tensors: dict[str, torch.Tensor], cols: Mapping[str, int], unseen: Mapping[str, list[str]]
) -> None:
    partial = path.with_name(f"{path.name}.partial")
    write_tensors(partial, tensors, {"cols": json.dumps(dict(cols)), "unseen": json.dumps(dict(unseen))})
    os.replace(partial, path)


def _read(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt", backend="pread") as file:
        return file.get_tensor(name)
