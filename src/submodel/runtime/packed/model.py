"""Build a model whose matrices are packed, block by block: the dense model is never in memory beside it."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.runtime.packed import huge_pages
from submodel.runtime.packed.formats import FORMATS, format_named
from submodel.runtime.packed.head import DomainHead, MappedEmbedding
from submodel.runtime.packed.linear import PackedEmbedding, keep_dtype, set_packed
from submodel.runtime.packed.matrix import PackedMatrix, pack
from submodel.store import Mask, Masks

_NOT_IN_BFLOAT16 = ("xlstm",)
_ROWS = 4096  # of the head, read and rounded at once


def load_packed(base: Base, masks: Masks, name: str, tokens: torch.Tensor | None = None) -> PreTrainedModel:
    """The model in bfloat16 with every matrix of its blocks, and the output head, packed.

    Args:
        base: the base model.
        masks: of a sub-model; none for the base itself, whose matrices go into the format's dense counterpart.
        name: a key of FORMATS; in a dense one, dropped weights are zeros. Output head and embedding have no mask;
            beside 8 and 4 bits they are in 8 bits.
        tokens: int64, ascending: the rows of the output head that are kept (see `DomainHead`); the embedding is then
            read from the checkpoint, row by row. All, if None.

    Raises SubmodelError for an unknown format or masks of another base.
    """
    rest = format_named(name).rest
    if base.config.get_text_config().model_type in _NOT_IN_BFLOAT16:
        raise SubmodelError(
            f"{base.reference}: the family's own code does not compute in bfloat16, as packed models do: give no format"
        )
    model = base.skeleton(torch.bfloat16)
    targets = base.targets(model)
    prefix, blocks = blocks_of(model)
    unused = dict.fromkeys(masks)
    mapped = () if tokens is None else names_of_vocabulary(model)
    base.fill(model, lambda target: not target.startswith(f"{prefix}.") and target not in mapped, targets)
    model.tie_weights()
    for index, block in enumerate(blocks):
        at = f"{prefix}.{index}"
        base.fill(model, lambda target, at=at: target.startswith(f"{at}."), targets)
        for matrix in matrices_of(block, at):
            set_packed(model, matrix.name, _pack(matrix.weight, masks.get(matrix.name), matrix.name, name))
            unused.pop(matrix.name, None)
        parameters = dict(block.named_parameters(prefix=at))
        for matrix in [matrix for matrix in unused if matrix in parameters]:
            masks[matrix].apply_to(parameters[matrix].data)  # routers, which earlier versions pruned
            unused.pop(matrix)
    if unused:
        raise SubmodelError(f"the masks have {next(iter(unused))}, which the model does not pack: another base")
    if tokens is None:
        pack_head(model, rest)
    else:
        limit_head(model, base, targets, rest, tokens)
    keep_dtype(model)
    base.add_generation_config(model)
    return model


def _pack(weight: torch.Tensor, mask: Mask | None, matrix: str, name: str) -> list[PackedMatrix]:
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


def _in_pages(packed: PackedMatrix) -> PackedMatrix:
    """Dense bfloat16 weights as fast to stream as packed ones, which are made in huge pages."""
    if packed.scales is not None or packed.starts is not None:
        return packed
    values = huge_pages.empty(packed.values.numel())
    return replace(packed, values=values.copy_(packed.values))


def pack_head(model: PreTrainedModel, name: str) -> None:
    """Pack the output head and, where there are scales, a plain embedding; two with the same weights are one matrix."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    weight = embedding.weight
    packed = None
    if isinstance(head, nn.Linear) and weight is not head.weight and torch.equal(weight, head.weight):
        weight = embedding.weight = head.weight
    if isinstance(head, nn.Linear):
        packed = pack(head.weight, None, name)
        set_packed(model, f"{_name_of(model, head)}.weight", [packed])
        if weight is not head.weight:
            packed = None
    if FORMATS[name].scaled and type(embedding) is nn.Embedding:
        model.set_submodule(_name_of(model, embedding), PackedEmbedding(packed or pack(weight, None, name)))


def names_of_vocabulary(model: PreTrainedModel) -> tuple[str, ...]:
    """The parameters that hold a row a token."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(f"{_name_of(model, module)}.weight" for module in modules if module is not None)


def limit_head(model: PreTrainedModel, base: Base, targets: dict[str, str], form: str, tokens: torch.Tensor) -> None:
    """Put a head of some rows and a mapped embedding into a model whose own are on the meta device.

    Raises SubmodelError for a head with a bias, which no supported family has.
    """
    embedding, head = (cast(Any, of()) for of in (model.get_input_embeddings, model.get_output_embeddings))
    if not isinstance(head, nn.Linear) or head.bias is not None or not isinstance(embedding, nn.Embedding):
        raise SubmodelError(
            f"{base.reference}: an output head of this kind ({type(head).__name__}) has no rows to choose: extract it "
            "without --vocab"
        )
    sources = {target: name for name, target in targets.items()}
    embedding_name, head_name = names_of_vocabulary(model)
    embedding_source = sources[embedding_name]
    head_source = embedding_source if head.weight is embedding.weight else sources.get(head_name, embedding_source)

    def read(source: str, rows: list[int]) -> torch.Tensor:
        return base.source.get_rows(source, rows).to(torch.bfloat16)

    kept = torch.cat([read(head_source, some.tolist()) for some in tokens.split(_ROWS)])
    limited = DomainHead(
        pack(kept, None, form),
        tokens,
        head.weight.shape[0],
        lambda ids: pack(read(head_source, ids.tolist()), None, form),
    )
    mapped = MappedEmbedding(
        lambda rows: read(embedding_source, rows),
        tuple(embedding.weight.shape),
        form if type(embedding) is nn.Embedding else None,
        getattr(embedding, "embed_scale", None),
    )
    model.set_submodule(_name_of(model, head), limited)
    model.set_submodule(_name_of(model, embedding), mapped)


def share_head(model: PreTrainedModel, tokens: torch.Tensor) -> None:
    """Let a model multiply only some rows of its packed head, which others share."""
    head: Any = model.get_output_embeddings()
    model.set_submodule(_name_of(model, head), DomainHead(head.packed, tokens, head.packed.rows))


def _name_of(model: nn.Module, module: nn.Module) -> str:
    """A module's name in the model."""
    return next(name for name, other in model.named_modules() if other is module)
