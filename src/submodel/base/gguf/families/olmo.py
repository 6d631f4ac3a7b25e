"""OLMo, OLMo 2 and 3, and OLMoE."""

from typing import Any

from submodel.base.gguf.families.family import (
    ATTENTION,
    BLOCK,
    HEAD_NORMS,
    MLP,
    POST_NORM,
    TURNED,
    Family,
    Place,
    experts,
    joined_attention,
    rotary,
    sliding_layers,
)
from submodel.base.gguf.families.llama import biases, mixture
from submodel.base.gguf.keys import Keys

_NORM_EPSILON = 1e-5  # of OLMo's norms, which have no weights; its config has no place for another


def _olmo(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys, "layer_norm_eps")
    if not abs(common.pop("layer_norm_eps") - _NORM_EPSILON) < 1e-9:
        raise keys.refusal("attention.layer_norm_epsilon", f"only {_NORM_EPSILON:g} is supported in this family")
    clip = keys.get("attention.clamp_kqv", 0)
    return "olmo", {**common, "clip_qkv": clip or None}


def _olmo2(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    bias = {"attention_bias": biases(keys)["attention_bias"]}
    window = keys.get("attention.sliding_window", 0)
    if not window:
        return "olmo2", {**common, **bias}
    rope = common["rope_parameters"]
    local = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base_swa", rope["rope_theta"]))}
    return "olmo3", {
        **common,
        **bias,
        "rope_parameters": {"full_attention": rope, "sliding_attention": local},
        "sliding_window": int(window),
        "layer_types": sliding_layers(keys, common["num_hidden_layers"], 4),
    }


def _olmoe(keys: Keys) -> tuple[str, dict[str, Any]]:
    count = int(keys.need("expert_count"))
    normed = bool(keys.get("expert_weights_norm", False))
    clip = keys.get("attention.clamp_kqv", 0) or None
    return "olmoe", {**rotary(keys), **mixture(keys), "num_experts": count, "norm_topk_prob": normed, "clip_qkv": clip}


OLMO = Family(
    _olmo,
    {
        **{part: place for part, place in ATTENTION.items() if part != "attn_norm"},
        **TURNED,
        **MLP,
        "attn_qkv": joined_attention({**ATTENTION, **TURNED}),
    },
)
OLMO2 = Family(
    _olmo2,
    {
        **{part: place for part, place in BLOCK.items() if part not in ("attn_norm", "ffn_norm")},
        **HEAD_NORMS,
        "attn_qkv": joined_attention(ATTENTION),
        "post_attention_norm": Place("post_attention_layernorm"),
        "post_ffw_norm": Place("post_feedforward_layernorm"),
    },
)
OLMOE = Family(
    _olmoe,
    {**ATTENTION, **POST_NORM, **HEAD_NORMS, "attn_qkv": joined_attention(ATTENTION), **experts("mlp")},
)
