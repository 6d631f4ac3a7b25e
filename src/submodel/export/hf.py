"""Export a sub-model: a plain Hugging Face directory, zeros and own weights in place, or packed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from submodel.base.models import Base, to_checkpoint
from submodel.base.weights import Safetensors, write_tensors
from submodel.errors import SubmodelError, unknown_name
from submodel.export.cut import Cut, cut_of
from submodel.prune.vocabulary import Vocabulary
from submodel.runtime.packed.checkpoint import save_packed
from submodel.runtime.packed.formats import SURVIVORS
from submodel.runtime.packed.model import load_packed
from submodel.store import Mask, Masks

FORMATS = ("hf", *(f"packed-{name}" for name in SURVIVORS))
_SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")
_SHARD_BYTES = 5_000_000_000


def export_directory(
    base: Base,
    masks: Masks,
    out: Path,
    form: str = "hf",
    manifest: dict[str, Any] | None = None,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Write the sub-model so that `AutoModelForCausalLM.from_pretrained` loads it, or packed, for `runtime.load`.

    Args:
        base: the base model.
        masks: the sub-model's masks.
        out: a directory that does not exist yet.
        form: a member of FORMATS.
        manifest: the sub-model's recipe, which goes into a packed directory.
        vocabulary: cut tokenizer, embedding and head to its tokens; None leaves them as they are.

    Shards, dtype, tokenizer and chat template are those of the base (a GGUF base gives bfloat16 shards and a
    config of its own making). One shard is in memory at a time.

    Raises:
        SubmodelError: `out` exists, an unknown format, a base or a format that cannot be cut, a full disk.
    """
    if form not in FORMATS:
        raise unknown_name("export format", form, FORMATS)
    if out.exists():
        raise SubmodelError(f"{out}: exists already: remove it or give another --out")
    if vocabulary is not None and form != "hf":
        raise SubmodelError(f"--format {form} keeps the base's tokenizer: give --vocab cut with --format hf")
    cut = None if vocabulary is None else cut_of(base, vocabulary)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        if form != "hf":
            _write_side_files(base, partial)
            save_packed(load_packed(base, masks, form.removeprefix("packed-")), form, manifest, partial)
            os.replace(partial, out)
            return
        tensors = {name: _mask_or_weight(mask, base.dtype) for name, mask in masks.items()}
        pruned = to_checkpoint(base, base.skeleton(base.dtype), tensors)
        if isinstance(base.source, Safetensors):
            _copy_shards(base, base.source, pruned, partial, cut)
        else:
            _write_shards(base, pruned, partial, cut)
        if cut is not None:
            cut.side_files(partial)
        os.replace(partial, out)
    except OSError as error:
        raise SubmodelError(f"{out}: {error.strerror or error}: nothing was written") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_side_files(base: Base, out: Path) -> None:
    """Everything but the weights and their index."""
    if base.path.is_dir():
        for pattern in _SIDE_FILES:
            for file in base.path.glob(pattern):
                if not file.name.endswith(".index.json"):
                    shutil.copyfile(file, out / file.name)
        return
    config = base.config
    config.dtype = base.dtype
    config.architectures = [type(base.skeleton(base.dtype)).__name__]
    config.save_pretrained(out)
    base.tokenizer.save_pretrained(out)


def _copy_shards(base: Base, source: Safetensors, pruned: dict[str, torch.Tensor], out: Path, cut: Cut | None) -> None:
    _write_side_files(base, out)
    size_bytes = 0
    for file in source.files:  # others may lie beside them, such as a copy for another library
        with safe_open(file, framework="pt") as shard:
            tensors = {name: _in_place(name, source.get(name), pruned, cut) for name in shard.keys()}
            write_tensors(out / file.name, tensors, shard.metadata())
            size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    for file in base.path.glob("*.index.json"):
        shutil.copyfile(file, out / file.name)
    index = out / "model.safetensors.index.json"
    if cut is not None and index.is_file():
        document = json.loads(index.read_text())
        document["metadata"] = {**(document.get("metadata") or {}), "total_size": size_bytes}
        index.write_text(json.dumps(document, indent=2) + "\n")


def _write_shards(base: Base, pruned: dict[str, torch.Tensor], out: Path, cut: Cut | None) -> None:
    _write_side_files(base, out)
    groups: list[list[str]] = [[]]
    size = 0
    for name in base.source.names:
        tensor_bytes = base.source.get(name).nbytes
        if size + tensor_bytes > _SHARD_BYTES and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += tensor_bytes
    if len(groups) == 1:
        files = ["model.safetensors"]
    else:
        files = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
        weight_map = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for file, names in zip(files, groups, strict=True):
        tensors = {name: _in_place(name, base.source.get(name), pruned, cut) for name in names}
        write_tensors(out / file, tensors, {"format": "pt"})


def _in_place(name: str, tensor: torch.Tensor, pruned: dict[str, torch.Tensor], cut: Cut | None) -> torch.Tensor:
    """A tensor of the checkpoint as the sub-model has it."""
    tensor = _pruned(tensor, pruned.get(name))
    return tensor if cut is None else cut.rows_of(name, tensor)


def _mask_or_weight(mask: Mask, dtype: torch.dtype) -> torch.Tensor:
    """A bool mask, or for a sub-model with weights of its own the whole new weight."""
    keep = torch.from_numpy(mask.unpack())
    return keep if mask.values is None else mask.apply_to(torch.empty(keep.shape, dtype=dtype))


def _pruned(tensor: torch.Tensor, pruned: torch.Tensor | None) -> torch.Tensor:
    if pruned is None:
        return tensor
    # multiplied as the runtime does, so that a dropped negative weight is the same -0.0 in both
    return tensor.mul_(pruned) if pruned.dtype == torch.bool else tensor.copy_(pruned)
