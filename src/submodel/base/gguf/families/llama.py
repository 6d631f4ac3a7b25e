"""LLaMA and what computes as it does: Mistral, Mixtral, Granite, SmolLM3, Arcee, Code Llama, DeepSeek-Coder."""

from typing import Any

from submodel.base.gguf.families.family import (
    ATTENTION,
    BLOCK,
    MLP,
    POST_NORM,
    TURNED,
    Family,
    experts,
    joined_attention,
    rotary,
)
from submodel.base.gguf.keys import Keys

_SOFTMAX = 1  # llama.cpp's number for how experts are weighed
_NO_ROPE_EVERY = 4  # of SmolLM3's blocks


def softmax_only(keys: Keys) -> None:
    """Raises SubmodelError for experts that are weighed in another way."""
    if keys.get("expert_gating_func", _SOFTMAX) not in (0, _SOFTMAX):
        raise keys.refusal("expert_gating_func", f"only {_SOFTMAX} (softmax) is supported in this family")


def mixture(keys: Keys) -> dict[str, Any]:
    """The number of experts and how many each token takes. Raises SubmodelError for groups or another weighing."""
    softmax_only(keys)
    used = keys.number("expert_used_count")
    if not used:
        raise keys.refusal("expert_used_count", "a mixture needs it")
    return {"num_experts_per_tok": int(used)}


def biases(keys: Keys) -> dict[str, Any]:
    """Which of a block's matrices have biases."""
    return {
        "attention_bias": any(keys.has(f"attn_{part}.bias") for part in ("q", "k", "v", "qkv", "output")),
        "mlp_bias": any(keys.has(f"ffn_{part}.bias") for part in ("gate", "up", "down")),
    }


def _llama(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    window = keys.get("attention.sliding_window", 0)
    if count := keys.get("expert_count", 0):
        return "mixtral", {**common, **mixture(keys), "num_local_experts": count, "sliding_window": window or None}
    has = biases(keys)
    if window and not any(has.values()):
        return "mistral", {**common, "sliding_window": window}
    if window:
        raise keys.refusal("attention.sliding_window", "not supported together with biases")
    return "llama", {**common, **has}


def _granite(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    if not keys.get("rope.scaling.finetuned", True):
        raise keys.refusal("rope.scaling.finetuned", "Granite without rotary positions is not supported")
    scale = keys.get("attention.scale", 0) or common["head_dim"] ** -0.5
    scales = {
        "attention_multiplier": float(scale),
        "embedding_multiplier": float(keys.get("embedding_scale", 0) or 1),
        "residual_multiplier": float(keys.get("residual_scale", 0) or 1),
        "logits_scaling": float(keys.get("logit_scale", 0) or 1),
    }
    if count := keys.get("expert_count", 0):
        return "granitemoe", {**common, **scales, **mixture(keys), "num_local_experts": count}
    return "granite", {**common, **scales, **biases(keys)}


def _smollm3(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    no_rope = [int((i + 1) % _NO_ROPE_EVERY != 0) for i in range(common["num_hidden_layers"])]
    return "smollm3", {**common, **biases(keys), "no_rope_layers": no_rope, "use_sliding_window": False}


def _arcee(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "arcee", {**rotary(keys), **biases(keys)}


_TURNED_BLOCK = {**BLOCK, **TURNED}
_JOINED = {"attn_qkv": joined_attention({**ATTENTION, **TURNED})}

LLAMA = Family(_llama, {**_TURNED_BLOCK, **_JOINED, **experts("mlp")})
GRANITE = Family(_granite, {**_TURNED_BLOCK, **_JOINED})
GRANITE_MOE = Family(_granite, {**ATTENTION, **POST_NORM, **TURNED, **_JOINED, **experts("block_sparse_moe", "router")})
SMOLLM3 = Family(_smollm3, {**_TURNED_BLOCK, **_JOINED})
ARCEE = Family(
    _arcee, {**ATTENTION, **POST_NORM, **TURNED, **_JOINED, **{k: v for k, v in MLP.items() if k != "ffn_gate"}}
)
