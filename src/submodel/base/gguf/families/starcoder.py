"""StarCoder2, StarCoder and GPT-2; GPT-NeoX, whose queries, keys and values lie head by head."""

from typing import Any

import numpy as np

from submodel.base.gguf.families.family import (
    ATTENTION,
    POST_NORM,
    Family,
    Place,
    joined_attention,
    partly_rotary,
    rotary,
    settings,
)
from submodel.base.gguf.keys import Keys


def _starcoder2(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = rotary(keys, "norm_epsilon")
    window = keys.get("attention.sliding_window", 0)
    dropout = dict.fromkeys(("residual_dropout", "embedding_dropout", "attention_dropout"), 0.0)
    return "starcoder2", {**common, **dropout, "use_bias": keys.has("attn_q.bias"), "sliding_window": window or None}


def _learned(keys: Keys) -> dict[str, Any]:
    common = settings(keys, "layer_norm_epsilon")
    return {
        "vocab_size": common["vocab_size"],
        "n_embd": common["hidden_size"],
        "n_inner": common["intermediate_size"] or None,
        "n_layer": common["num_hidden_layers"],
        "n_head": common["num_attention_heads"],
        "n_positions": common["max_position_embeddings"],
        "layer_norm_epsilon": common["layer_norm_epsilon"],
        "tie_word_embeddings": common["tie_word_embeddings"],
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


def _starcoder(keys: Keys) -> tuple[str, dict[str, Any]]:
    groups = keys.number("attention.head_count_kv", 1)
    if groups not in (1, keys.number("attention.head_count")):
        raise keys.refusal("attention.head_count_kv", "1, or as many as heads, are supported in this family")
    common = _learned(keys)
    return "gpt_bigcode", {**common, "multi_query": groups == 1, "activation_function": "gelu_pytorch_tanh"}


def _gpt2(keys: Keys) -> tuple[str, dict[str, Any]]:
    return "gpt2", _learned(keys)


def _neox(keys: Keys) -> tuple[str, dict[str, Any]]:
    common = partly_rotary(keys, "layer_norm_eps")
    parallel = bool(keys.get("use_parallel_residual", True))
    return "gpt_neox", {
        **common,
        "use_parallel_residual": parallel,
        "attention_bias": keys.has("attn_qkv.bias"),
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }


def _across(values: np.ndarray, _: Any) -> np.ndarray:
    """GPT-2's matrices are (cols, rows) in the model."""
    return values.T if values.ndim == 2 else values


def _head_by_head(values: np.ndarray, config: Any) -> np.ndarray:
    heads = config.num_attention_heads
    return values.reshape(3, heads, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


_GPT = {
    "token_embd": Place("transformer.wte"),
    "position_embd": Place("transformer.wpe"),
    "output_norm": Place("transformer.ln_f"),
    "output": Place("lm_head"),
}
_GPT_NORMS = {"attn_norm": Place("ln_1"), "ffn_norm": Place("ln_2")}
_GPT_MATRICES = {
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}

STARCODER2 = Family(
    _starcoder2,
    {
        **ATTENTION,
        **POST_NORM,
        "attn_qkv": joined_attention(ATTENTION),
        "ffn_up": Place("mlp.c_fc"),
        "ffn_down": Place("mlp.c_proj"),
    },
)
STARCODER = Family(
    _starcoder,
    {**_GPT_NORMS, **{part: Place(name) for part, name in _GPT_MATRICES.items()}},
    _GPT,
    "transformer.h",
)
GPT2 = Family(
    _gpt2,
    {**_GPT_NORMS, **{part: Place(name, _across) for part, name in _GPT_MATRICES.items()}},
    _GPT,
    "transformer.h",
)
GPT_NEOX = Family(
    _neox,
    {
        **POST_NORM,
        "attn_norm": Place("input_layernorm"),
        "attn_qkv": Place("attention.query_key_value", _head_by_head),
        "attn_output": Place("attention.dense"),
        "ffn_up": Place("mlp.dense_h_to_4h"),
        "ffn_down": Place("mlp.dense_4h_to_h"),
    },
    {
        "token_embd": Place("gpt_neox.embed_in"),
        "output_norm": Place("gpt_neox.final_layer_norm"),
        "output": Place("lm_head"),
    },
    "gpt_neox.layers",
)
