"""Phi-2, whose blocks compute attention and MLP side by side, and Phi-3, whose matrices are joined."""

from typing import Any

from submodel.base.gguf.families.family import (
    ATTENTION,
    POST_NORM,
    Family,
    Place,
    joined_attention,
    partly_rotary,
    rotary,
)
from submodel.base.gguf.keys import Keys


def _phi2(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = partly_rotary(keys, "layer_norm_eps")
    return "phi", {**common, "resid_pdrop": 0.0, "embd_pdrop": 0.0}


def _phi3(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys)
    original = int(keys.get("rope.scaling.original_context_length", common["max_position_embeddings"]))
    window = keys.get("attention.sliding_window", 0)
    return "phi3", {
        **common,
        "original_max_position_embeddings": original,
        "sliding_window": window or None,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    }


_PHI2 = {
    **ATTENTION,
    "attn_output": Place("self_attn.dense"),
    "ffn_up": Place("mlp.fc1"),
    "ffn_down": Place("mlp.fc2"),
}

PHI2 = Family(
    _phi2,
    {**_PHI2, "attn_qkv": joined_attention(ATTENTION)},
    {
        "token_embd": Place("model.embed_tokens"),
        "output_norm": Place("model.final_layernorm"),
        "output": Place("lm_head"),
    },
)
PHI3 = Family(
    _phi3,
    {
        "attn_norm": Place("input_layernorm"),
        "attn_qkv": Place("self_attn.qkv_proj"),
        "attn_output": Place("self_attn.o_proj"),
        "ffn_up": Place("mlp.gate_up_proj"),
        "ffn_down": Place("mlp.down_proj"),
        **POST_NORM,
    },
)
