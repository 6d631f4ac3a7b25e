"""Open anything that names a model, for running: a base (directory, hub id, .gguf) or `STORE@NAME`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base.arithmetic import quicken
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.errors import SubmodelError
from submodel.prune.vocabulary import Vocabulary
from submodel.runtime.engine import Engine, engine_of
from submodel.runtime.packed.checkpoint import is_packed, open_packed
from submodel.runtime.packed.formats import format_named
from submodel.runtime.packed.head import DomainHead
from submodel.runtime.packed.model import load_packed
from submodel.runtime.vocabulary import TokenLimit
from submodel.store import Masks, Store, digest_of_submodel, split_reference
from submodel.store.base import open_store_base


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        reference: what the user gave.
        base: the opened base.
        model: with the sub-model's zeros in place.
        manifest: the sub-model's recipe, or None for the base itself.
        weight_format: how its matrices are kept, a key of FORMATS; None as torch tensors.
        vocabulary: the tokens that the sub-model keeps; None where that is all of them.
    """

    reference: str
    base: Base
    model: PreTrainedModel
    manifest: dict[str, Any] | None
    weight_format: str | None = None
    vocabulary: Vocabulary | None = None

    def __repr__(self) -> str:
        packed = f", packed in {self.weight_format}" if self.weight_format else ""
        return f"<{self.reference}: {self.base.config.model_type} in {str(self.model.dtype)[6:]}{packed}>"

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def digest(self) -> str | None:
        """Identifies a sub-model among those of its base: the digest of its masks, and of rewritten weights."""
        return None if self.manifest is None else digest_of_submodel(self.manifest)

    @property
    def name(self) -> str:
        """The sub-model's name, or "dense" for the base."""
        return self.manifest["name"] if self.manifest else "dense"

    @cached_property
    def limit(self) -> TokenLimit | None:
        """Which tokens it may say; None where that is all of them."""
        tokens = head_rows(self.vocabulary)
        if tokens is None:
            return None
        head: Any = self.model.get_output_embeddings()
        return TokenLimit(tokens, head.out_features, head.rows if isinstance(head, DomainHead) else None)

    @cached_property
    def engine(self) -> Engine | None:
        """What decodes a packed model natively, if its family is known."""
        return engine_of(self.model) if self.weight_format else None


def _refuse_store(reference: str) -> None:
    """Raises SubmodelError for a store without the name of one of its sub-models."""
    path = Path(reference).expanduser()
    if (path / "store.json").is_file():
        names = Store(path).names
        which = f"give {' or '.join(f'{reference}@{name}' for name in names)}" if names else "it is empty"
        raise SubmodelError(f"{reference}: that is a store: {which}")


def load(
    reference: str,
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    base: str | None = None,
    trust_remote_code: bool = False,
    opened: dict[str, Base] | None = None,
    weight_format: str | None = None,
    complete_head: bool = False,
) -> Loaded:
    """Open a model for running.

    Args:
        reference: a Hugging Face directory, a hub id, a .gguf file, `STORE@NAME` or a packed directory.
        dtype: of the weights; as stored if None.
        device: where to put it.
        base: where the store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with the model run.
        opened: bases that are open already, by reference; one that is opened here is put there too.
        weight_format: pack the matrices (a key of FORMATS); the model then computes in bfloat16, on the CPU.
        complete_head: keep all rows of the head in memory, though a sub-model says no more than its vocabulary has, so
            that text can be scored that uses others.

    Raises:
        SubmodelError: nothing there, the base is not the one that the store was made from, or a packed model on
            another device or in another dtype.
    """
    if is_packed(reference):
        if device != "cpu" or dtype not in (None, torch.bfloat16) or weight_format is not None:
            raise SubmodelError(f"{reference}: packed already, in bfloat16 on the cpu: give no device, dtype or format")
        return Loaded(reference, *open_packed(reference, trust_remote_code))
    if weight_format is not None:
        format_named(weight_format)
        if device != "cpu" or dtype not in (None, torch.bfloat16):
            raise SubmodelError(f"format {weight_format}: packed models compute in bfloat16 on the cpu: give neither")
    opened = {} if opened is None else opened
    parts = split_reference(reference)
    masks: Masks = {}
    manifest, vocabulary = None, None
    if parts is None:
        _refuse_store(reference)
        if reference not in opened:
            opened[reference] = open_base(reference, trust_remote_code)
        source = opened[reference]
    else:
        store = Store(parts[0])
        masks, manifest = store.masks(parts[1]), store.manifest(parts[1])
        vocabulary = store.vocabulary(parts[1])
        source = open_store_base(store, base, trust_remote_code, opened)
    if weight_format is not None:
        model = load_packed(source, masks, weight_format, None if complete_head else head_rows(vocabulary))
    else:
        model = masked_model(source, masks, dtype, device)
    return Loaded(reference, source, model, manifest, weight_format, vocabulary)


def head_rows(vocabulary: Vocabulary | None) -> torch.Tensor | None:
    """The rows of the head that a vocabulary keeps, int64 ascending; None where that is all of them."""
    return None if vocabulary is None else torch.from_numpy(vocabulary.ids())


def masked_model(base: Base, masks: Masks, dtype: torch.dtype | None = None, device: str = "cpu") -> PreTrainedModel:
    """A base with a sub-model's masks in place, ready to run.

    Args:
        base: the base.
        masks: of the sub-model; none for the base itself.
        dtype: of the weights; as stored if None.
        device: where to put it.

    Raises:
        SubmodelError: the masks are of another base.
    """
    model = base.load(dtype, device)
    apply_masks(model, masks)
    if device == "cpu":
        quicken(model)
    return model


def apply_masks(model: PreTrainedModel, masks: Masks) -> None:
    """Set the weights that a mask drops to zero, and the others to the sub-model's own if it has any, in place.

    Raises SubmodelError when a matrix is missing or has another shape.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        weight = parameters.get(name)
        shape = (*mask.packed.shape[:-1], mask.cols)
        if weight is None or tuple(weight.shape) != shape:
            have = "none" if weight is None else tuple(weight.shape)
            raise SubmodelError(f"the masks have {name} with shape {shape}, the model has {have}: another base")
        mask.apply_to(weight.data)
