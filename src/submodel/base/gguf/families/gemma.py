"""Gemma, Gemma 2 and Gemma 3 (text): norms about one, soft caps, sliding windows."""

from typing import Any

from submodel.base.gguf.families.family import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    Family,
    Place,
    joined_attention,
    rotary,
    settings,
    sliding_layers,
)
from submodel.base.gguf.keys import Keys
from submodel.base.gguf.rope import rope_parameters

# the 27B models scale by the width of the model's heads, not of their own; no key says so, llama.cpp goes by the depth
_WIDE_GEMMA2, _WIDE_GEMMA3 = 46, 62
_WINDOW_GEMMA2, _CAP_ATTENTION, _CAP_LOGITS = 4096, 50.0, 30.0  # llama.cpp's values where a Gemma 2 does not say


def _scalar(common: dict[str, Any], wide: int) -> float:
    if common["num_hidden_layers"] == wide:
        return common["hidden_size"] / common["num_attention_heads"]
    return common["head_dim"]


def _gemma(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "gemma", rotary(keys)


def _gemma2(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    _same_theta(keys, common["rope_parameters"]["rope_theta"])
    return "gemma2", {
        **common,
        "query_pre_attn_scalar": _scalar(common, _WIDE_GEMMA2),
        "sliding_window": int(keys.get("attention.sliding_window", _WINDOW_GEMMA2)),
        "layer_types": sliding_layers(keys, common["num_hidden_layers"], 2),
        "attn_logit_softcapping": float(keys.get("attn_logit_softcapping", _CAP_ATTENTION)),
        "final_logit_softcapping": float(keys.get("final_logit_softcapping", _CAP_LOGITS)),
    }


def _same_theta(keys: Keys, theta: float) -> None:
    if keys.get("rope.freq_base_swa", theta) != theta:
        raise keys.refusal("rope.freq_base_swa", f"only rope.freq_base, {theta:g}, is supported in this family")


def _gemma3(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = settings(keys)
    window = int(keys.get("attention.sliding_window", 0))
    local = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base_swa", 10000.0))}
    kinds = sliding_layers(keys, common["num_hidden_layers"], 6)
    return "gemma3_text", {
        **common,
        "rope_parameters": {
            "full_attention": rope_parameters(keys, common["head_dim"]),
            "sliding_attention": local,
        },
        "query_pre_attn_scalar": _scalar(common, _WIDE_GEMMA3),
        "sliding_window": window or common["max_position_embeddings"],
        "layer_types": kinds if window else ["full_attention"] * len(kinds),
        "final_logit_softcapping": keys.get("final_logit_softcapping", 0) or None,
        "attn_logit_softcapping": None,
    }


def _about_one(places: dict[str, Place]) -> dict[str, Place]:
    return {part: Place(place.name, about_one=True) for part, place in places.items()}


_NORM = _about_one({"attn_norm": Place("input_layernorm")})
_AFTER = _about_one(
    {
        "post_attention_norm": Place("post_attention_layernorm"),
        "ffn_norm": Place("pre_feedforward_layernorm"),
        "post_ffw_norm": Place("post_feedforward_layernorm"),
    }
)
_OUTSIDE = {
    "token_embd": Place("model.embed_tokens"),
    "output_norm": Place("model.norm", about_one=True),
    "output": Place("lm_head"),
}
_JOINED = {"attn_qkv": joined_attention(ATTENTION)}
_GEMMA2 = {**ATTENTION, **_JOINED, **MLP, **_NORM, **_AFTER}

GEMMA = Family(
    _gemma,
    {**ATTENTION, **_JOINED, **MLP, **_NORM, **_about_one({"ffn_norm": Place("post_attention_layernorm")})},
    _OUTSIDE,
)
GEMMA2 = Family(_gemma2, _GEMMA2, _OUTSIDE)
GEMMA3 = Family(_gemma3, {**_GEMMA2, **_about_one(HEAD_NORMS)}, _OUTSIDE)
