"""Qwen2, Qwen3 and their mixtures; Seed-OSS, which is Qwen2 with other heads."""

from typing import Any

import numpy as np

from submodel.base.gguf.families.family import (
    ATTENTION,
    BLOCK,
    HEAD_NORMS,
    POST_NORM,
    Family,
    Place,
    experts,
    joined_attention,
    rotary,
)
from submodel.base.gguf.families.llama import biases, mixture
from submodel.base.gguf.keys import Keys


def _qwen2(keys: Keys) -> tuple[str, dict[str, Any]]:
    window = keys.get("attention.sliding_window", 0)
    sliding = {"use_sliding_window": bool(window), "sliding_window": window or None, "max_window_layers": 0}
    return "qwen2", {**rotary(keys), **sliding}


def _qwen3(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "qwen3", {**rotary(keys), **_attention_bias(keys), "use_sliding_window": False}


def _attention_bias(keys: Keys) -> dict[str, Any]:
    return {"attention_bias": biases(keys)["attention_bias"]}


def _of_experts(keys: Keys, normed: bool) -> dict[str, Any]:
    count = int(keys.need("expert_count"))
    shape = keys.shape("blk.0.ffn_down_exps.weight")
    width = keys.number("expert_feed_forward_length", shape[-1] if shape else 0)
    return {
        **mixture(keys),
        "num_experts": count,
        "moe_intermediate_size": int(width),
        "norm_topk_prob": bool(keys.get("expert_weights_norm", normed)),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen2moe(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    shape = keys.shape("blk.0.ffn_down_shexp.weight")
    shared = keys.number("expert_shared_feed_forward_length", shape[-1] if shape else common["intermediate_size"])
    return "qwen2_moe", {**common, **_of_experts(keys, normed=False), "shared_expert_intermediate_size": int(shared)}


def _qwen3moe(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "qwen3_moe", {**rotary(keys), **_of_experts(keys, normed=True), **_attention_bias(keys)}


def _seed_oss(keys: Keys) -> tuple[str, dict[str, Any]]:
    out = keys.has("attn_output.bias")
    return "seed_oss", {**rotary(keys), **biases(keys), "attention_out_bias": out}


def _one_row(values: np.ndarray, _: Any) -> np.ndarray:
    return values.reshape(1, -1)


_JOINED = {"attn_qkv": joined_attention(ATTENTION)}
_MIXTURE = {**ATTENTION, **POST_NORM, **_JOINED, **experts("mlp")}
_SHARED = {
    "ffn_gate_inp_shexp": Place("mlp.shared_expert_gate", _one_row),
    "ffn_gate_shexp": Place("mlp.shared_expert.gate_proj"),
    "ffn_up_shexp": Place("mlp.shared_expert.up_proj"),
    "ffn_down_shexp": Place("mlp.shared_expert.down_proj"),
}

QWEN2 = Family(_qwen2, {**BLOCK, **_JOINED})
QWEN3 = Family(_qwen3, {**BLOCK, **_JOINED, **HEAD_NORMS})
QWEN2_MOE = Family(_qwen2moe, {**_MIXTURE, **_SHARED})
QWEN3_MOE = Family(_qwen3moe, {**_MIXTURE, **HEAD_NORMS})
SEED_OSS = Family(_seed_oss, {**BLOCK, "post_attention_norm": Place("post_attention_layernorm"), **_JOINED})
