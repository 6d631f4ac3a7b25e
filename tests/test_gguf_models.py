"""Every family that is read from GGUF, written both ways: the file's model computes what the directory's does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from submodel.base.gguf.families import FAMILIES
from submodel.base.opening import open_base
from tests import gguf_files, tiny

_PLAIN: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 20}
_GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "n_inner": 48}

# what each model type's config says besides; windows are shorter than the text, caps bite
CASES: dict[str, list[dict[str, Any]]] = {
    "llama": [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "num_key_value_heads": 4, "rms_norm_eps": 1e-3},
    ],
    "mistral": [{"sliding_window": 8}],
    "mixtral": [{"num_local_experts": 4, "num_experts_per_tok": 2}],
    "granite": [
        {},
        {"attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.22, "logits_scaling": 4.0},
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ],
    "granitemoe": [
        {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.3, "logits_scaling": 4.0}
    ],
    "smollm3": [{"tie_word_embeddings": True}, {"tie_word_embeddings": False, "attention_bias": True}],
    "arcee": [{}, {"attention_bias": True, "mlp_bias": True}],
    "qwen2": [{}, {"tie_word_embeddings": True}],
    "qwen3": [{"head_dim": 16}, {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}],
    "qwen2_moe": [{**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24}],
    "qwen3_moe": [{**_EXPERTS, "num_experts": 4, "head_dim": 16, "norm_topk_prob": True}],
    "seed_oss": [{"head_dim": 16, "attention_bias": True, "attention_out_bias": False}],
    "gemma": [{"head_dim": 16}],
    "gemma2": [
        {
            "head_dim": 16,
            "sliding_window": 8,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 0.3,
            "query_pre_attn_scalar": 16,
        }
    ],
    "gemma3_text": [
        {
            "head_dim": 16,
            "num_hidden_layers": 7,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "final_logit_softcapping": 0.3,
        },
    ],
    "phi": [{"num_key_value_heads": 4, "partial_rotary_factor": 0.5}],
    "phi3": [{}, {"sliding_window": 8, "tie_word_embeddings": True}],
    "starcoder2": [
        {"tie_word_embeddings": True, "use_bias": True},
        {"tie_word_embeddings": False, "use_bias": False, "norm_epsilon": 1e-3},
    ],
    "gpt_bigcode": [{**_GPT}],
    "gpt2": [{**_GPT}],
    "gpt_neox": [
        {"rotary_pct": 0.5, "use_parallel_residual": True},
        {"rotary_pct": 1.0, "use_parallel_residual": False, "tie_word_embeddings": True},
    ],
    "olmo": [{}, {"clip_qkv": 0.4, "tie_word_embeddings": True}],
    "olmo2": [{}, {"tie_word_embeddings": True}],
    "olmo3": [{"sliding_window": 8}],
    "olmoe": [{"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4}],
    "stablelm": [
        {"partial_rotary_factor": 0.5},
        {"partial_rotary_factor": 0.25, "use_qkv_bias": True, "qk_layernorm": True},
        {"partial_rotary_factor": 1.0, "use_parallel_residual": True, "layer_norm_eps": 1e-3},
    ],
    "cohere": [{"logit_scale": 0.25}, {"logit_scale": 0.5, "use_qk_norm": True}],
    "cohere2": [{"logit_scale": 0.25, "sliding_window": 8, "head_dim": 8}],
    "nemotron": [{"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0, "tie_word_embeddings": True}],
}
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 4.0],
    "long_factor": [2.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": 64,
}
ROPES: dict[str, dict[str, Any]] = {
    "base": {"rope_type": "default", "rope_theta": 123.0},
    "linear": _LINEAR,
    "llama3": _LLAMA3,
    "llama3-other": {**_LLAMA3, "factor": 32.0, "high_freq_factor": 8.0, "original_max_position_embeddings": 64},
    "yarn": _YARN,
    "yarn-attention": {**_YARN, "attention_factor": 0.7, "beta_fast": 16.0, "beta_slow": 2.0},
    "longrope": _LONG,
    "longrope-longer": {**_LONG, "original_max_position_embeddings": 16},
}
# families with rotary positions in whole heads, to which every kind of scaling applies
_ROTARY = (
    "llama", "mixtral", "granite", "qwen2", "qwen3", "qwen3_moe", "starcoder2", "olmo2", "smollm3", "arcee", "seed_oss",
)  # fmt: skip


def build(family: str, **settings: Any) -> Any:
    """A random model in float32 whose biases and norms are not all zero or one."""
    given = settings if family in ("gpt2", "gpt_bigcode") else {**_PLAIN, **settings}
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(family, **{**none, **given})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            elif "embed" not in name and "wte" not in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model


def directory_logits(model: Any, folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """Of the model as a directory, opened by transformers in float32."""
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits


def _ids() -> torch.Tensor:
    return tiny.ids(2, 40) % 96


_SINGLE = [(family, case) for family, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("family", "case"), _SINGLE, ids=[f"{f}-{i}" for i, (f, _) in enumerate(_SINGLE)])
@torch.no_grad()
def test_both_ways(family: str, case: dict[str, Any], tmp_path: Path):
    model = build(family, **case)
    expected = directory_logits(model, tmp_path / "directory", _ids())
    file = gguf_files.write(tmp_path / "model.gguf", model)
    base = open_base(str(file))
    assert base.dtype == torch.float32
    torch.testing.assert_close(base.load()(_ids()).logits, expected, atol=2e-5, rtol=1e-4)
    assert base.config.tie_word_embeddings == model.config.tie_word_embeddings


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", _ROTARY)
@torch.no_grad()
def test_every_kind_of_rope(family: str, rope: str, tmp_path: Path):
    extra = {"llama": {}, "mixtral": {"num_local_experts": 4}, "qwen3_moe": CASES["qwen3_moe"][0] | {"head_dim": 8}}
    model = build(family, **{**extra.get(family, {}), "head_dim": 8}, rope_parameters=dict(ROPES[rope]))
    expected = directory_logits(model, tmp_path / "directory", _ids())
    unscaled = build(family, **{**extra.get(family, {}), "head_dim": 8})
    assert (unscaled(_ids()).logits - expected).abs().max() > 1e-2  # the test would see a rule that is dropped
    base = open_base(str(gguf_files.write(tmp_path / "model.gguf", model)))
    torch.testing.assert_close(base.load()(_ids()).logits, expected, atol=2e-5, rtol=1e-4)
    if rope.startswith(("llama3", "yarn", "linear")):
        assert base.config.rope_parameters["rope_type"] == rope.split("-")[0]


def test_no_family_is_left_out():
    covered = {gguf_files.ARCHITECTURES.get(family, family) for family in CASES}
    assert covered == set(FAMILIES)
