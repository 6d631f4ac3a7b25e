"""What a family of models is in GGUF: the config that its keys make, and the places of its tensors in the model."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from submodel.base.gguf.keys import Keys
from submodel.base.gguf.rope import rope_parameters
from submodel.base.gguf.source import Piece
from submodel.errors import SubmodelError

Change = Callable[[np.ndarray, Any], np.ndarray]
"""From the file's layout of a tensor to the model's, given the model's config."""

_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(.+)\.(weight|bias)")
_COMPUTED = frozenset({"attn_rot_embd"})  # frequencies that early converters wrote and that follow from the config


@dataclass(frozen=True)
class Place:
    """Where a tensor goes.

    Attributes:
        name: of the module, below the block or the model; of the parameter itself if `whole`.
        change: to the model's layout; None if it is the file's.
        whole: whether no `.weight` or `.bias` follows the name.
        part: its number among the tensors that are joined to this parameter.
        each: the config's name of a count, where the tensor's rows are so many parameters; `{}` in the name.
        about_one: whether the file has a norm's weight as it multiplies, and the model adds one to its own.
    """

    name: str
    change: Change | None = None
    whole: bool = False
    part: int = 0
    each: str | None = None
    about_one: bool = False


@dataclass(frozen=True)
class Family:
    """A family of models.

    Attributes:
        config: reads the keys into (model type, settings of its config) as `transformers` calls them.
        block: places of the tensors of a block, by what the file calls them.
        outside: places of the other tensors.
        blocks: the name of the list of blocks in the model.
    """

    config: Callable[[Keys], tuple[str, dict[str, Any]]]
    block: Mapping[str, Place | tuple[Place, ...]]
    outside: Mapping[str, Place] = field(
        default_factory=lambda: {
            "token_embd": Place("model.embed_tokens"),
            "output_norm": Place("model.norm"),
            "output": Place("lm_head"),
        }
    )
    blocks: str = "model.layers"


ATTENTION = {
    "attn_norm": Place("input_layernorm"),
    "attn_q": Place("self_attn.q_proj"),
    "attn_k": Place("self_attn.k_proj"),
    "attn_v": Place("self_attn.v_proj"),
    "attn_output": Place("self_attn.o_proj"),
}
MLP = {
    "ffn_gate": Place("mlp.gate_proj"),
    "ffn_up": Place("mlp.up_proj"),
    "ffn_down": Place("mlp.down_proj"),
}
POST_NORM = {"ffn_norm": Place("post_attention_layernorm")}
HEAD_NORMS = {"attn_q_norm": Place("self_attn.q_norm"), "attn_k_norm": Place("self_attn.k_norm")}
BLOCK = {**ATTENTION, **POST_NORM, **MLP}
"""The tensors of a block with a gated MLP."""


def experts(at: str, router: str = "gate") -> dict[str, Place]:
    """The tensors of a mixture, all experts in one.

    Args:
        at: the mixture's name in its block.
        router: its router's name there.
    """
    joined = f"{at}.experts.gate_up_proj"
    return {
        "ffn_gate_inp": Place(f"{at}.{router}"),
        "ffn_gate_exps": Place(joined, whole=True, part=0),
        "ffn_up_exps": Place(joined, whole=True, part=1),
        "ffn_gate_up_exps": Place(joined, whole=True),
        "ffn_down_exps": Place(f"{at}.experts.down_proj", whole=True),
    }


def halves_apart(heads: str) -> Change:
    """Rotary pairs lie side by side in the file, and a half of the head apart in the model.

    Args:
        heads: the config's name for the number of heads.
    """

    def change(values: np.ndarray, config: Any) -> np.ndarray:
        pairs = values.reshape(getattr(config, heads), -1, 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)

    return change


TURNED = {
    "attn_q": Place("self_attn.q_proj", halves_apart("num_attention_heads")),
    "attn_k": Place("self_attn.k_proj", halves_apart("num_key_value_heads")),
}
"""Queries and keys of families whose converter permutes them."""


def joined_attention(places: Mapping[str, Place]) -> tuple[Place, ...]:
    """Queries, keys and values of one tensor, for a model that has them apart."""

    def cut(part: int, after: Change | None, values: np.ndarray, config: Any) -> np.ndarray:
        sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        head = len(values) // sum(sizes)
        first = sum(sizes[:part]) * head
        values = values[first : first + sizes[part] * head]
        return values if after is None else after(values, config)

    names = ("attn_q", "attn_k", "attn_v")
    return tuple(Place(places[name].name, partial(cut, i, places[name].change)) for i, name in enumerate(names))


def settings(keys: Keys, norm: str = "rms_norm_eps") -> dict[str, Any]:
    """What nearly all configs have.

    Args:
        keys: of the file.
        norm: the config's name for the epsilon of its norms; "rms_norm_eps" for root mean square norms.

    Raises:
        SubmodelError: a key is missing, or a value differs from block to block.
    """
    hidden, heads = int(keys.need("embedding_length")), int(keys.number("attention.head_count"))
    head_dim = int(keys.get("attention.key_length", hidden // heads))
    if keys.get("attention.value_length", head_dim) != head_dim:
        raise keys.refusal("attention.value_length", f"values as wide as keys are supported, {head_dim}")
    kind = "rms_" if norm == "rms_norm_eps" else ""
    embedding = keys.shape("token_embd.weight")
    if embedding is None:
        raise SubmodelError(f"{keys.file}: it has no token_embd.weight: give the file of a whole model")
    return {
        "vocab_size": embedding[0],
        "hidden_size": hidden,
        "intermediate_size": int(keys.number("feed_forward_length", 0)),
        "num_hidden_layers": int(keys.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.number("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "max_position_embeddings": int(keys.need("context_length")),
        norm: float(keys.need(f"attention.layer_norm_{kind}epsilon")),
        "tie_word_embeddings": keys.shape("output.weight") is None,
    }


def rotary(keys: Keys, norm: str = "rms_norm_eps") -> dict[str, Any]:
    """`settings` of a family with rotary positions."""
    common = settings(keys, norm)
    return {**common, "rope_parameters": rope_parameters(keys, common["head_dim"])}


def partly_rotary(keys: Keys, norm: str) -> dict[str, Any]:
    """`rotary` of a family whose config turns a part of each head where it says nothing."""
    common = rotary(keys, norm)
    common["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    return common


def sliding_layers(keys: Keys, blocks: int, period: int) -> list[str]:
    """The kinds of attention of all blocks.

    Args:
        keys: of the file.
        blocks: how many there are.
        period: every so manieth block sees the whole text, where the file does not say.
    """
    pattern = keys.get("attention.sliding_window_pattern", period)
    if not isinstance(pattern, list):
        pattern = [(i + 1) % pattern != 0 if pattern else True for i in range(blocks)]
    return ["sliding_attention" if slides else "full_attention" for slides in pattern[:blocks]]


def pieces_of(
    family: Family, keys: Keys, config: Any, parameters: Mapping[str, tuple[int, ...]], tensors: Iterable[str]
) -> dict[str, tuple[Piece, ...]]:
    """What each of a model's parameters is made of.

    Args:
        family: the model's family.
        keys: the file's; tensors that went into the config have no place in the model.
        config: the model's.
        parameters: the model's parameters, by their names.
        tensors: the file's.

    Raises:
        SubmodelError: a tensor has no place in the model.
    """
    found: dict[str, dict[int, Piece]] = {}
    for tensor in tensors:
        if tensor in keys.tensors_read:
            continue
        match = _TENSOR.fullmatch(tensor)
        block, part, kind = match.groups() if match else (None, "", "")
        if part in _COMPUTED:
            continue
        given = (family.outside if block is None else family.block).get(part)
        places = (given,) if isinstance(given, Place) else given or ()
        below = "" if block is None else f"{family.blocks}.{block}."
        targets = [target for place in places for target in _targets(place, below, kind, tensor, config)]
        if not targets or any(name not in parameters for name, _, _ in targets):
            raise SubmodelError(
                f"{keys.file}: the tensor {tensor} has no place in the family {keys.architecture} as it is read here: "
                "give the model's safetensors directory"
            )
        for name, number, piece in targets:
            found.setdefault(name, {})[number] = piece
    return {name: tuple(pieces[i] for i in sorted(pieces)) for name, pieces in found.items()}


def _targets(place: Place, below: str, kind: str, tensor: str, config: Any) -> list[tuple[str, int, Piece]]:
    """(parameter, part, piece) of every parameter that a tensor goes into."""
    name = f"{below}{place.name}" if place.whole else f"{below}{place.name}.{kind}"
    if place.each is not None:
        count = getattr(config, place.each)
        return [(name.format(i), 0, Piece(tensor, partial(_row, i))) for i in range(count)]
    if place.about_one and kind == "weight":
        return [(name, place.part, Piece(tensor, _less_one))]
    change = None if place.change is None else partial(_with_config, place.change, config)
    return [(name, place.part, Piece(tensor, change))]


def _row(i: int, values: np.ndarray) -> np.ndarray:
    return values[i]


def _with_config(change: Change, config: Any, values: np.ndarray) -> np.ndarray:
    return change(values, config)


def _less_one(values: np.ndarray) -> np.ndarray:
    return values - np.float32(1)
