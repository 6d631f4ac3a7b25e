"""A tiny random model of every causal language model family that transformers knows.

`SIZES` are the names by which configs call their sizes; `DIFFERENCES` is what a family needs beyond them. Sizes are
small and odd, so that a walk over all families is cheap; layers of every kind that a family mixes are there.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from tests import tiny

LARGEST = 4_000_000  # parameters
VOCABULARY = tiny.VOCABULARY

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "ffn_hidden_size": 48, "dff": 48,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4, "decoder_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "multi_query_group_num": 2, "head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128,
    "bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 1,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "expert_ffn_hidden_size": 24,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "sliding_window": 8, "attention_window": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "state_size": 8, "mamba_d_state": 8, "mamba_chunk_size": 8,
    "chunk_size": 8, "time_step_rank": 4, "mamba_dt_rank": 4, "index_n_heads": 4, "index_head_dim": 16,
    "index_topk": 128,  # all of a text: ties between its scores, which are often 0, are broken by chance
    "ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "embedding_size": 32,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
}  # fmt: skip

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
_TWO = {"num_experts_per_tok": 2}
_MLA = {"num_key_value_heads": 4, "qk_head_dim": 16}
_PICTURES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 4, "out_hidden_size": 32, "output_channels": 32,
}  # fmt: skip
_SHALLOW = {name: 2 for name in SIZES if name.endswith("layers") or name == "n_layer"}
DIFFERENCES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
                     "longcat_flash", "minicpm3", "youtu", "hy_v4"), {**_MLA, **_TWO}),
    **dict.fromkeys(("codegen", "gptj"), {"rotary_dim": 4}),
    "bailing_hybrid": {**_MIXED, **_MLA},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1},
    "kimi_linear": {"layer_types": ["linear_attention", "full_attention"] * 2, **_MLA},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {
        "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "layer_types": ["mamba", "attention"] * 2,
    },
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), {"rope_parameters": _ROPE, "head_dim": 8}),
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "ffn_act_fn": {"name": "silu"}},
    },
    "xglm": {"pad_token_id": 1},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "mamba_dt_rank": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "mamba_headdim": 8},
    **dict.fromkeys(("dots3_note", "dots3_note_text"), {"num_key_value_heads": 4}),
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
    "reformer": {
        "is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 16], "attn_layers": ["local"] * 2,
        "local_attn_chunk_length": 8, "attention_head_size": 8,
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "attention_layers": ["global", "local"] * 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, **_TWO},
}  # fmt: skip


def config_of(family: str) -> Any:
    """The tiny config of a family. Raises what its class raises when it takes no such sizes."""
    config_class: Any = CONFIG_MAPPING[family]
    default = config_class()
    part = default.get_text_config(decoder=True)
    sizes = SIZES if getattr(part, "layer_types", None) or family in DIFFERENCES else {**SIZES, **_SHALLOW}
    known: dict[str, Any] = {}
    for name, size in sizes.items():
        try:
            there = getattr(part, name, None) is not None
        except Exception:  # a value a layer
            there = True
        if there and not isinstance(getattr(type(part), name, None), property) or name.endswith("token_id"):
            known[name] = size
    if known["pad_token_id"] and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        known["pad_token_id"] = 256
    if getattr(part, "is_decoder", None) is False:
        known["is_decoder"] = True
    known |= DIFFERENCES.get(family, {})
    if part is default:
        return config_class(**known)
    parts: dict[str, Any] = {}
    for name in default.sub_configs:
        if (other := getattr(default, name, None)) is not None:
            parts[name] = known if other is part else {k: v for k, v in _PICTURES.items() if hasattr(other, k)}
    return config_class(**parts)


def is_other_kind(family: str) -> bool:
    """Whether a family's models are an encoder with a decoder, as its configuration has them."""
    return bool(getattr(CONFIG_MAPPING[family](), "is_encoder_decoder", False))


def save(family: str, folder: Path) -> None:
    """Write a family's model in float32 and the byte tokenizer; of an encoder with a decoder only its configuration.

    Raises what `transformers` raises for a family of which it makes no tiny model.
    """
    if is_other_kind(family):
        CONFIG_MAPPING[family]().save_pretrained(folder)
        save_file({"weight": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
        return
    config = config_of(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters, in parts that this walk does not know to make small")
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms that are not all zero or one
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter += 0.1 * noise
            elif "embed" not in name:
                parameter.copy_(0.2 * noise)
    model.save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)


FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
