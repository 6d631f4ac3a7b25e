"""The keys of a file's architecture: each is read into the model's config, changes nothing, or is refused by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from submodel.errors import SubmodelError

# what says nothing about what the model computes
_HARMLESS = frozenset({"vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "pooling_type"})
# the value with which a key says nothing
_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "embedding_scale": 1,
    "expert_count": 0,
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": 0,
    "expert_used_count": 0,
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": 0,
    "leading_dense_block_count": 0,
    "logit_scale": (0, 1),
    "n_deepstack_layers": 0,
    "nextn_predict_layers": 0,
    "residual_scale": 1,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.factor": (0, 1),
    "rope.scaling.yarn_ext_factor": (-1, 0),
}


class Keys:
    """Reads the keys, and notes which were read.

    Args:
        file: what errors name.
        fields: all keys of the file.
        shapes: of the file's tensors, by their names.
        vector: reads a tensor of a few numbers.

    Raises SubmodelError when the file names no architecture, or is no language model.
    """

    def __init__(
        self,
        file: Path,
        fields: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        vector: Callable[[str], np.ndarray],
    ):
        self.file = file
        self.architecture = str(fields.get("general.architecture", ""))
        if not self.architecture:
            raise SubmodelError(f"{file}: it has no key general.architecture: give the GGUF file of a language model")
        if (kind := fields.get("general.type", "model")) != "model":
            raise SubmodelError(f"{file}: general.type is {kind}: give the GGUF file of the model itself")
        self._fields, self._shapes, self._vector = fields, shapes, vector
        self._read: set[str] = set()
        self.tensors_read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """A key's value, or the default where the file does not have it."""
        self._read.add(name)
        return self._fields.get(f"{self.architecture}.{name}", default)

    def need(self, name: str) -> Any:
        """A key's value. Raises SubmodelError where the file does not have it."""
        if f"{self.architecture}.{name}" not in self._fields:
            raise SubmodelError(f"{self.file}: it has no key {self.architecture}.{name}: convert the model again")
        return self.get(name)

    def number(self, name: str, default: Any = None) -> Any:
        """A number that all blocks share, which some files write once for each of them."""
        value = self.get(name, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise self.refusal(name, "it differs from block to block, which is not supported")
            return value[0]
        return value

    def refusal(self, name: str, why: str) -> SubmodelError:
        """The error for a key whose value cannot be obeyed."""
        value = self._fields.get(f"{self.architecture}.{name}")
        return SubmodelError(
            f"{self.file}: {self.architecture}.{name} is {str(value)[:60]}: {why}: give the model's safetensors "
            "directory"
        )

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """Of a tensor in torch's order; None if the file does not have it."""
        return self._shapes.get(tensor)

    def has(self, part: str) -> bool:
        """Whether any block has a tensor of this name, such as `attn_q.bias`."""
        return any(name.startswith("blk.") and name.split(".", 2)[2] == part for name in self._shapes)

    def vector(self, tensor: str) -> list[float] | None:
        """The numbers of a tensor that goes into the config; None if the file does not have it."""
        if tensor not in self._shapes:
            return None
        self.tensors_read.add(tensor)
        return [float(str(value)) for value in self._vector(tensor).reshape(-1)]

    def refuse_unread(self) -> None:
        """Raises SubmodelError for a key of the architecture that nothing has read and that may matter."""
        for name in self._fields:
            architecture, _, key = name.partition(".")
            if architecture != self.architecture or key in self._read or key in _HARMLESS:
                continue
            neutral = _NEUTRAL.get(key)
            allowed = neutral if isinstance(neutral, tuple) else (neutral,)
            if neutral is None or self._fields[name] not in allowed:
                raise self.refusal(key, f"a key that is not understood in the family {self.architecture}")
