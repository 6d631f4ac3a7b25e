"""A tiny random model of every causal language model family that transformers knows.

`SIZES` are the names by which configs call their sizes; `DIFFERENCES` is what a family needs beyond them. Sizes are
small and odd, so that a walk over all families is cheap; layers of every kind that a family mixes are there.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 259

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "ffn_hidden_size": 48, "dff": 48,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4, "decoder_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "multi_query_group_num": 2, "head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128,
    "bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 0,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "expert_ffn_hidden_size": 24,
    "n_group": 1, "topk_group": 1, "num_expert_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "sliding_window": 8, "attention_window": 8,
}  # fmt: skip

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
_MLA = {"num_key_value_heads": 4, "qk_head_dim": 16}
_SHALLOW = {name: 2 for name in SIZES if name.endswith("layers") or name == "n_layer"}
DIFFERENCES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
                     "longcat_flash", "minicpm3", "youtu", "hy_v4"), _MLA),
    **dict.fromkeys(("codegen", "gptj"), {"rotary_dim": 4}),
    "bailing_hybrid": _MIXED,
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"rope_parameters": _ROPE},
    "hunyuan_v1_moe": {"rope_parameters": _ROPE},
    "ministral": {"rope_parameters": _ROPE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "attention_layers": ["global", "local"] * 2},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4},
    "reformer": {"is_decoder": True},
    "zaya": {},
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
        except AttributeError:  # a value a layer
            there = True
        if there and not isinstance(getattr(type(part), name, None), property) or name.endswith("token_id"):
            known[name] = size
    if getattr(part, "is_decoder", None) is False:
        known["is_decoder"] = True
    known |= DIFFERENCES.get(family, {})
    if part is default:
        return config_class(**known)
    name = next(key for key in default.sub_configs if getattr(default, key) is part)
    return config_class(**{name: known})


def build(family: str, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32).eval()


FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def save(family: str, folder: Any) -> None:
    from tests import tiny

    model = build(family)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            elif "embed" not in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
