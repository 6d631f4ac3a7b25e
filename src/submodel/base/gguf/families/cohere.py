"""Command R and Command R7B, StableLM and Nemotron: layer norms, scaled logits, parts of heads that turn."""

from typing import Any

from submodel.base.gguf.families.family import (
    ATTENTION,
    BLOCK,
    HEAD_NORMS,
    MLP,
    Family,
    Place,
    joined_attention,
    partly_rotary,
    rotary,
    sliding_layers,
)
from submodel.base.gguf.families.llama import biases
from submodel.base.gguf.keys import Keys


def _command_r(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "cohere", {
        **rotary(keys, "layer_norm_eps"),
        "logit_scale": float(keys.get("logit_scale", 0) or 1),
        "use_qk_norm": keys.has("attn_q_norm.weight"),
        "attention_bias": biases(keys)["attention_bias"],
    }


def _cohere2(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys, "layer_norm_eps")
    theta = common["rope_parameters"]["rope_theta"]
    if "partial_rotary_factor" in common["rope_parameters"]:
        raise keys.refusal("rope.dimension_count", f"only whole heads, {common['head_dim']}, turn in this family")
    if keys.get("rope.freq_base_swa", theta) != theta:
        raise keys.refusal("rope.freq_base_swa", f"only rope.freq_base, {theta:g}, is supported in this family")
    return "cohere2", {
        **common,
        "logit_scale": float(keys.need("logit_scale")),
        "sliding_window": int(keys.need("attention.sliding_window")),
        "layer_types": sliding_layers(keys, common["num_hidden_layers"], 4),
        "attention_bias": biases(keys)["attention_bias"],
    }


def _stablelm(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = partly_rotary(keys, "layer_norm_eps")
    parallel = not keys.has("ffn_norm.weight")
    if bool(keys.get("use_parallel_residual", parallel)) != parallel:
        raise keys.refusal("use_parallel_residual", "the file's norms say otherwise")
    return "stablelm", {
        **common,
        "use_parallel_residual": parallel,
        "use_qkv_bias": any(keys.has(f"attn_{part}.bias") for part in ("q", "k", "v", "qkv")),
        "qk_layernorm": keys.has("attn_q_norm.weight"),
        "hidden_dropout": 0.0,
    }


def _nemotron(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "nemotron", {**partly_rotary(keys, "norm_eps"), **biases(keys)}


_JOINED = {"attn_qkv": joined_attention(ATTENTION)}

COMMAND_R = Family(_command_r, {**ATTENTION, **MLP, **HEAD_NORMS, **_JOINED})
COHERE2 = Family(_cohere2, {**ATTENTION, **MLP, **_JOINED})
STABLELM = Family(
    _stablelm,
    {
        **BLOCK,
        **_JOINED,
        "attn_q_norm": Place("self_attn.q_layernorm.norms.{}", each="num_attention_heads"),
        "attn_k_norm": Place("self_attn.k_layernorm.norms.{}", each="num_key_value_heads"),
    },
)
NEMOTRON = Family(
    _nemotron,
    {
        **ATTENTION,
        **MLP,
        **_JOINED,
        "attn_norm": Place("input_layernorm", about_one=True),
        "ffn_norm": Place("post_attention_layernorm", about_one=True),
    },
    {
        "token_embd": Place("model.embed_tokens"),
        "output_norm": Place("model.norm", about_one=True),
        "output": Place("lm_head"),
    },
)
