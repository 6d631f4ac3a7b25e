"""Many sub-models of one base in memory: the dense weights once, and of each sub-model its masks, a bit a weight.

The kernels apply a mask while they read the dense weights. A sub-model kept so decodes slower than a packed one, which
reads fewer bytes, and about as fast as the dense base; what it costs is memory: nothing but the masks.
"""

import copy
import math
from typing import Any

from torch import nn

from submodel.base.models import Base
from submodel.errors import SubmodelError, unknown_name
from submodel.runtime.load import Loaded, head_rows
from submodel.runtime.packed import huge_pages
from submodel.runtime.packed.formats import FORMATS, SHARED, SURVIVORS, words_of
from submodel.runtime.packed.linear import packed_matrices, set_packed
from submodel.runtime.packed.matrix import PackedMatrix, mask_words, share
from submodel.runtime.packed.model import load_packed, share_head
from submodel.store import Mask, Masks, Store


class SharedBase:
    """A base in memory, and any number of its sub-models over the same weights.

    Sub-models are independent: several threads may run them, or the same one with caches of their own, at once. One
    that is let go gives its masks' memory back; the base's goes with the last of them and this object.

    Attributes:
        base: the opened base.
        weight_format: "shared" (bfloat16) or "shared-int8"; output head and embedding as in these formats.
        dense: the base itself, ready to run.
    """

    def __init__(self, base: Base, weight_format: str = "shared"):
        """Load the base's weights. Raises SubmodelError for a format that shares nothing."""
        if weight_format not in SHARED:
            raise unknown_name("shared weight format", weight_format, SHARED)
        self.base = base
        self.weight_format = weight_format
        rest = FORMATS[weight_format].rest
        self.dense = Loaded(base.reference, base, load_packed(base, {}, rest), None, rest)

    def submodel(self, store: Store, name: str) -> Loaded:
        """A sub-model over the base's weights; only its masks are read.

        Raises SubmodelError when the store has none of this name, is of another base, or the sub-model has weights of
        its own, which cannot be shared.
        """
        manifest = store.manifest(name)
        reference = f"{store.path}@{name}"
        if "weights" in manifest:
            raise SubmodelError(
                f"{reference}: has weights of its own ({manifest['method']}), so it cannot share the base's: load it "
                f"packed ({', '.join(SURVIVORS)})"
            )
        if store.base["sha256"] != self.base.sha256:
            raise SubmodelError(
                f"{reference}: of another base (weights {store.base['sha256'][:12]}) than {self.base.reference} "
                f"({self.base.sha256[:12]})"
            )
        model = _same_tensors(self.dense.model)
        _mask(model, store.masks(name), reference)
        vocabulary = store.vocabulary(name)
        if (tokens := head_rows(vocabulary)) is not None:
            share_head(model, tokens)
        return Loaded(reference, self.base, model, manifest, self.weight_format, vocabulary)


def _same_tensors(model: Any) -> Any:
    """Modules of their own over the very tensors of a model."""
    kept: list[Any] = [model.config, *model.parameters(), *model.buffers()]
    kept += [packed for _, parts in packed_matrices(model) for packed in parts]
    return copy.deepcopy(model, {id(one): one for one in kept})


def _mask(model: nn.Module, masks: Masks, reference: str) -> None:
    """Lay masks over a model's matrices; they lie in one piece of memory, which goes back as one."""
    matrices = dict(packed_matrices(model))
    room = huge_pages.empty(sum(_mask_bytes(packed) for name in masks for packed in matrices.get(name, ())))
    at = 0
    for name, mask in masks.items():
        shape, parts = (*mask.packed.shape[:-1], mask.cols), matrices.get(name, [])
        if [shape[-2:]] * math.prod(shape[:-2]) != [(packed.rows, packed.cols) for packed in parts]:
            raise SubmodelError(f"{reference}: the masks have {name} with shape {shape}, the base has not")
        shared: list[PackedMatrix] = []
        for bits, packed in zip(mask.packed.reshape(-1, *mask.packed.shape[-2:]), parts, strict=True):
            size = _mask_bytes(packed)
            shared.append(share(packed, mask_words(Mask(bits, mask.cols), room[at : at + size])))
            at += size
        set_packed(model, name, shared)


def _mask_bytes(packed: PackedMatrix) -> int:
    return packed.rows * words_of(packed.cols) * 8
