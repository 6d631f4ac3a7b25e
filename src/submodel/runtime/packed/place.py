"""Build a model whose matrices are packed, block by block: the dense model is never in memory beside it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.runtime import pages
from submodel.runtime.packed.formats import FORMATS, Packed, format_named, pack
from submodel.runtime.packed.linear import PackedEmbedding, PackedExperts, PackedLinear
from submodel.store import Mask, Masks


def load_packed(base: Base, masks: Masks, name: str) -> PreTrainedModel:
    """The model in bfloat16 with every matrix of its blocks, and the output head, packed.

    Args:
        base: the base model.
        masks: of a sub-model; none for the base itself, whose matrices go into the format's dense counterpart.
        name: a key of FORMATS; in a dense one, dropped weights are zeros. Output head and embedding have no mask;
            beside 8 and 4 bits they are in 8 bits.

    Raises SubmodelError for an unknown format or masks of another base.
    """
    rest = format_named(name).rest
    model = base.skeleton(torch.bfloat16)
    targets = base.targets(model)
    prefix, blocks = blocks_of(model)
    left = dict.fromkeys(masks)
    base.fill(model, lambda target: not target.startswith(f"{prefix}."), targets)
    model.tie_weights()
    for index, block in enumerate(blocks):
        at = f"{prefix}.{index}"
        base.fill(model, lambda target, at=at: target.startswith(f"{at}."), targets)
        for matrix in matrices_of(block, at):
            place(model, matrix.name, _pack(matrix.weight, masks.get(matrix.name), matrix.name, name))
            left.pop(matrix.name, None)
    if left:
        raise SubmodelError(f"the masks have {next(iter(left))}, which the model does not pack: another base")
    pack_head(model, rest)
    read_generation_config(model, base)
    return model


def _pack(weight: torch.Tensor, mask: Mask | None, matrix: str, name: str) -> list[Packed]:
    if mask is not None and tuple(weight.shape) != (shape := (*mask.packed.shape[:-1], mask.cols)):
        raise SubmodelError(f"the masks have {matrix} with shape {shape}, the model has {tuple(weight.shape)}")
    grid = None
    if mask is not None and (mask.values is not None or not FORMATS[name].masked):
        grid = weight.detach().clone() if mask.grid == name else None
        weight = mask.apply_to(weight.detach())
    if weight.dim() == 2:
        return [_in_pages(pack(weight, mask, name, grid))]
    experts: list[Any] = [None] * len(weight) if mask is None else [Mask(np.asarray(m), mask.cols) for m in mask.packed]
    grids = [None] * len(weight) if grid is None else grid
    return [_in_pages(pack(w, m, name, g)) for w, m, g in zip(weight, experts, grids, strict=True)]


def _in_pages(packed: Packed) -> Packed:
    """Dense bfloat16 weights as fast to stream as packed ones, which are made in huge pages."""
    if packed.format not in ("dense", "shared"):
        return packed
    values = pages.empty(packed.values.numel())
    return replace(packed, values=values.copy_(packed.values))


def place(model: nn.Module, parameter: str, packed: list[Packed]) -> None:
    """Put packed matrices where a parameter or other packed ones are: a linear's weight, or the slices of a 3-D one."""
    path, _, attribute = parameter.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, nn.Embedding):
        model.set_submodule(path, PackedEmbedding(packed[0]))
    elif isinstance(module, nn.Linear | PackedLinear):
        model.set_submodule(path, PackedLinear(packed[0], module.bias))
    else:
        delattr(module, attribute)
        setattr(module, attribute, PackedExperts(packed))


def pack_head(model: PreTrainedModel, name: str) -> None:
    """Pack the output head and, in 8 bits, a plain embedding; two with the same weights are one matrix."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    weight = embedding.weight
    packed = None
    if isinstance(head, nn.Linear) and weight is not head.weight and torch.equal(weight, head.weight):
        weight = embedding.weight = head.weight
    if isinstance(head, nn.Linear):
        packed = pack(head.weight, None, name)
        place(model, f"{name_of(model, head)}.weight", [packed])
        if weight is not head.weight:
            packed = None
    if FORMATS[name].bits == 8 and type(embedding) is nn.Embedding:
        model.set_submodule(name_of(model, embedding), PackedEmbedding(packed or pack(weight, None, name)))


def name_of(model: nn.Module, module: nn.Module) -> str:
    """A module's name in the model."""
    return next(name for name, other in model.named_modules() if other is module)


def read_generation_config(model: PreTrainedModel, base: Base) -> None:
    if (base.path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(base.path)


def packed_of(model: nn.Module) -> Iterator[tuple[str, list[Packed]]]:
    """Every packed parameter of a model, by name."""
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear | PackedEmbedding):
            yield f"{name}.weight", [module.packed]
        elif isinstance(module, PackedExperts):
            yield name, module.packed
