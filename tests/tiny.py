"""Tiny real architectures from configs, a byte tokenizer, and text: what the tests run on."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel

VOCABULARY = 259

_LLAMA: dict[str, Any] = {
    "hidden_size": 36,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 128,
}
_EXPERTS = {**_LLAMA, "hidden_size": 48, "intermediate_size": 52, "head_dim": 8, "num_experts_per_tok": 2}

# model type -> what its config differs in; sizes are odd on purpose, windows shorter than a sample, caps that bite
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "mistral": {**_LLAMA, "sliding_window": 8},
    "gemma": {**_LLAMA},
    "gemma2": {
        **_LLAMA,
        "sliding_window": 8,
        "attn_logit_softcapping": 0.3,
        "query_pre_attn_scalar": 6,
        "final_logit_softcapping": 0.1,
    },
    "gemma3_text": {
        **_LLAMA,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "final_logit_softcapping": 0.1,
        "query_pre_attn_scalar": 6,
    },
    "qwen2": {**_LLAMA},
    "qwen3": {**_LLAMA},
    "starcoder2": {**_LLAMA, "use_bias": True},
    "phi3": {**_LLAMA, "pad_token_id": 0},
    "olmo2": {**_LLAMA},
    "stablelm": {**_LLAMA, "partial_rotary_factor": 1.0},
    "gpt_neox": {**_LLAMA, "rotary_pct": 1.0},
    "opt": {
        "hidden_size": 36,
        "ffn_dim": 53,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "word_embed_proj_dim": 36,
    },
    "bloom": {"hidden_size": 36, "n_layer": 3, "n_head": 6},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {**_EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 20, "decoder_sparse_step": 1},
}


def build(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model of a family in float32."""
    settings = {**FAMILIES, **MIXTURES}[family]
    if family == "gemma3_text":
        settings = {**settings, "num_hidden_layers": 4}
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, bos_token_id=257, eos_token_id=258, **settings)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases and norms that are not all zero or one
            if parameter.dim() == 1:
                parameter += 0.1 * torch.randn_like(parameter)
            elif "embed" not in name:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    return model


def save(family: str, folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """Write a family's model and the byte tokenizer to `folder`."""
    model: Any = build(family)
    model.to(dtype).save_pretrained(folder, **options)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_gguf(file: Path, model: PreTrainedModel | None = None, matrices: str = "F32") -> Path:
    """Write a LLaMA, the tiny one if None, as a GGUF file without a tokenizer, its matrices in one of GGUF's types."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    model = model or build("llama")
    config: Any = model.config
    kind = GGMLQuantizationType[matrices]
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(10000.0)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:  # GGUF keeps rotary pairs side by side
                halves = tensor.reshape(count, 2, config.head_dim // 2, -1)
                tensor = halves.transpose(1, 2).reshape(tensor.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if tensor.dim() < 2:
            writer.add_tensor(name, tensor.numpy(), raw_dtype=GGMLQuantizationType.F32)
        else:
            writer.add_tensor(name, quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes and three special tokens; a sequence ends with </s>."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)} | {"<unk>": 256, "<s>": 257, "</s>": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def ids(count: int, seq_len: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (count, seq_len), skewed as text is."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, seq_len, generator=generator) ** 3 * 256).long()


def write_jsonl(file: Path, kind: str, rows: int = 200) -> Path:
    """Rows of text in a column `text`; `kind` decides its words."""
    rng = random.Random(kind)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz_():=", k=rng.randint(2, 9))) for _ in range(60)]
    lines = [json.dumps({"id": i, "text": " ".join(rng.choices(words, k=30))}) for i in range(rows)]
    file.write_text("\n".join(lines) + "\n")
    return file
