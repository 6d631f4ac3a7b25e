"""Packed models on disk: written once, opened by mapping the file, nothing packed again.

docs/reference/format.md specifies the directory. What is opened is checked before a kernel sees it: the digest of all
tensors, and of every matrix that its parts fit each other, so that no kernel can read past them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.base.files import write_json
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.base.weights import Safetensors, write_tensors
from submodel.errors import SubmodelError
from submodel.runtime.packed.formats import FORMATS
from submodel.runtime.packed.linear import keep_dtype, packed_matrices, set_packed
from submodel.runtime.packed.matrix import PackedMatrix
from submodel.runtime.packed.model import pack_head

FORMAT = 1
_KIND = "submodel packed model"
_WEIGHTS = "packed.safetensors"


def is_packed(reference: str) -> bool:
    """Whether a reference names a packed directory."""
    return (Path(reference).expanduser() / "packed.json").is_file()


def save_packed(model: PreTrainedModel, form: str, manifest: dict[str, Any] | None, folder: Path) -> None:
    """Write a packed model's weights and packed.json into a folder that has its configuration and tokenizer.

    Raises OSError when the disk is full.
    """
    tensors = {name: tensor.detach() for name, tensor in _unpacked_tensors(model)}
    matrices: dict[str, Any] = {}
    written = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    same: dict[str, str] = {}
    for name, parts in packed_matrices(model):
        if (values := parts[0].values.data_ptr()) in written:  # tied
            same[name] = written[values]
            continue
        written[values] = name
        experts = [len(parts)] if len(parts) > 1 or not name.endswith(".weight") else []
        matrices[name] = {"format": parts[0].format, "shape": [*experts, parts[0].rows, parts[0].cols]}
        for at, packed in zip(_names(name, matrices[name]["shape"]), parts, strict=True):
            tensors |= {f"{at}.{part}": tensor for part, tensor in packed.tensors.items()}
    write_tensors(folder / _WEIGHTS, tensors)
    document = {
        "kind": _KIND,
        "format": FORMAT,
        "weights": form.removeprefix("packed-"),
        "sha256": Safetensors([folder / _WEIGHTS]).sha256(),
        "matrices": matrices,
        "same": same,
        "submodel": {key: value for key, value in manifest.items() if key != "matrices"} if manifest else None,
    }
    write_json(folder / "packed.json", document)


def open_packed(reference: str, trust_remote_code: bool = False) -> tuple[Base, PreTrainedModel, Any, str]:
    """Open a packed directory: its base, the model, the sub-model's recipe and the weight format.

    Raises SubmodelError when it is of another version, cut short or altered.
    """
    path = Path(reference).expanduser()
    damaged = SubmodelError(f"{reference}: cut short or altered: export it again")
    try:
        document = json.loads((path / "packed.json").read_text())
        if document["kind"] != _KIND:
            raise damaged
        if document["format"] != FORMAT:
            raise SubmodelError(f"{reference}: its format is {document['format']}, this version reads {FORMAT}")
        base = open_base(reference, trust_remote_code)
        source = Safetensors([path / _WEIGHTS])
        if source.sha256() != document["sha256"]:
            raise damaged
        model = _build(base, source, document)
        return base, model, document["submodel"], str(document["weights"])
    except SubmodelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise damaged from error


def _build(base: Base, source: Safetensors, document: dict[str, Any]) -> PreTrainedModel:
    model = base.skeleton(torch.bfloat16)
    model.tie_weights()
    for name, entry in document["matrices"].items():
        expected = tuple(model.get_parameter(name).shape)
        if entry["format"] not in FORMATS or tuple(entry["shape"]) != expected:
            raise SubmodelError(f"{base.reference}: {name} is not that of the model: export it again")
        set_packed(model, name, [_matrix(source, at, entry) for at in _names(name, entry["shape"])])
    packed = dict(packed_matrices(model))
    for name, other in document["same"].items():
        if other in packed and tuple(model.get_parameter(name).shape) == (packed[other][0].rows, packed[other][0].cols):
            set_packed(model, name, packed[other])
    for name, tensor in _unpacked_tensors(model):
        stored = source.mapped(name)
        if stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            raise SubmodelError(f"{base.reference}: {name} is not that of the model: export it again")
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        if attribute in module._parameters:
            module._parameters[attribute] = nn.Parameter(stored, requires_grad=False)
        else:
            module._buffers[attribute] = stored
    if isinstance(model.get_output_embeddings(), nn.Linear):
        model.tie_weights()
        pack_head(model, FORMATS[document["weights"]].rest)
    keep_dtype(model)
    base.add_generation_config(model)
    return model


def _matrix(source: Safetensors, at: str, entry: dict[str, Any]) -> PackedMatrix:
    present = {part for part in ("mask", "scales", "starts", "values") if f"{at}.{part}" in source.names}
    parts = {part: source.mapped(f"{at}.{part}") for part in present}
    packed = PackedMatrix(entry["format"], *entry["shape"][-2:], **parts)
    packed.check()
    return packed


def _names(name: str, shape: list[int]) -> list[str]:
    """What the tensors of a parameter begin with: an expert of a mixture has its number after the name."""
    return [name] if len(shape) == 2 else [f"{name}.{expert}" for expert in range(shape[0])]


def _unpacked_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything that is not packed: parameters, tied ones once, and the buffers that a checkpoint has."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.numel())
    saved = model.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
