"""Writes models as GGUF files by the rules of llama.cpp's converter (conversion/*.py of its repository).

Tensor names are those of the `gguf` package's own map; keys and layouts are the converter's, family by family.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    RopeScalingType,
    get_tensor_name_map,
    quantize,
)

# the architecture of a model type in GGUF, where it is not called so
ARCHITECTURES = {
    "cohere": "command-r", "gemma3_text": "gemma3", "gpt_bigcode": "starcoder", "gpt_neox": "gptneox",
    "mistral": "llama", "mixtral": "llama", "olmo3": "olmo2", "phi": "phi2", "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}  # fmt: skip
_PERMUTED = ("llama", "granite", "granitemoe", "olmo", "smollm3", "arcee")
_ABOUT_ONE = ("gemma", "gemma2", "gemma3", "nemotron")


def architecture(model: Any) -> Any:
    return ARCHITECTURES.get(model.config.model_type, model.config.model_type)


def write(
    file: Path, model: Any, tokenizer: Mapping[str, Any] | None = None, kind: str = "F32", **options: Any
) -> Path:
    """Write a model.

    Args:
        file: the .gguf file.
        model: of transformers, in float32.
        tokenizer: keys of a tokenizer (see `bpe_keys` and `spm_keys`).
        kind: the type of its matrices.
        options: of GGUFWriter; `extra`: keys that are written besides.
    """
    extra = options.pop("extra", {})
    writer = GGUFWriter(file, architecture(model), **options)
    for key, value in {**keys_of(model), **(tokenizer or {}), **extra}.items():
        _add(writer, key if "." in key and key.split(".")[0] in _PLAIN else f"{architecture(model)}.{key}", value)
    for name, values in tensors_of(model):
        stored = GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(name, quantize(np.ascontiguousarray(values), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


_PLAIN = ("general", "tokenizer", "split", "quantize", "adapter")


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def keys_of(model: Any) -> dict[str, Any]:
    """The keys of the architecture."""
    config, name = model.config.to_dict(), architecture(model)
    first: Any = lambda *names: next((config[n] for n in names if config.get(n) is not None), None)  # noqa: E731
    heads, hidden = first("num_attention_heads", "n_head"), first("hidden_size", "n_embd")
    head_dim = config.get("head_dim") or hidden // heads
    keys: dict[str, Any] = {
        "block_count": first("num_hidden_layers", "n_layer"),
        "context_length": first("max_position_embeddings", "n_positions"),
        "embedding_length": hidden,
        "feed_forward_length": first("intermediate_size", "n_inner") or 4 * hidden,
        "attention.head_count": heads,
        "attention.head_count_kv": first("num_key_value_heads") or (1 if name == "starcoder" else heads),
        "attention.layer_norm_rms_epsilon": first("rms_norm_eps"),
        "attention.layer_norm_epsilon": first("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
        "expert_count": first("num_local_experts", "num_experts"),
        "expert_used_count": first("num_experts_per_tok") if first("num_local_experts", "num_experts") else None,
        "attention.key_length": config.get("head_dim") if name != "granite" else None,
        "attention.value_length": config.get("head_dim") if name != "granite" else None,
        **_rope_keys(model, head_dim),
    }
    own: dict[str, dict[str, Any]] = {
        "llama": {
            "vocab_size": config.get("vocab_size"),
            "rope.dimension_count": head_dim,
            "attention.sliding_window": config.get("sliding_window"),  # the converter leaves it out
        },
        "granite": {
            "attention.scale": config.get("attention_multiplier"),
            "embedding_scale": config.get("embedding_multiplier"),
            "residual_scale": config.get("residual_multiplier"),
            "logit_scale": config.get("logits_scaling"),
        },
        "qwen2moe": {
            "expert_feed_forward_length": config.get("moe_intermediate_size"),
            "expert_shared_feed_forward_length": config.get("shared_expert_intermediate_size"),
        },
        "gemma2": {
            "attn_logit_softcapping": config.get("attn_logit_softcapping"),
            "final_logit_softcapping": config.get("final_logit_softcapping"),
            "attention.sliding_window": config.get("sliding_window"),
        },
        "gemma3": {
            "final_logit_softcapping": config.get("final_logit_softcapping"),
            "attention.sliding_window": config.get("sliding_window"),
        },
        "phi3": {
            "attention.sliding_window": config.get("sliding_window") or 0,
            "rope.scaling.original_context_length": config.get("original_max_position_embeddings"),
        },
        "olmo": {"attention.layer_norm_epsilon": 1e-5, "attention.clamp_kqv": config.get("clip_qkv")},
        "stablelm": {"use_parallel_residual": config.get("use_parallel_residual")},
        "gptneox": {"use_parallel_residual": config.get("use_parallel_residual")},
        "command-r": {"logit_scale": config.get("logit_scale"), "rope.scaling.type": "none"},
        "cohere2": {
            "logit_scale": config.get("logit_scale"),
            "attention.sliding_window": config.get("sliding_window"),
            "rope.dimension_count": head_dim,
            "rope.scaling.type": "none",
        },
    }
    own["qwen3moe"], own["granitemoe"] = own["qwen2moe"], own["granite"]
    own["smollm3"] = own["arcee"] = {"vocab_size": config.get("vocab_size"), "rope.dimension_count": head_dim}
    if config["model_type"] == "olmo3":
        slides = [kind == "sliding_attention" for kind in config["layer_types"]]
        own["olmo2"] = {
            "attention.sliding_window": config["sliding_window"],
            "attention.sliding_window_pattern": slides,
        }
    return {key: value for key, value in {**keys, **own.get(name, {})}.items() if value is not None}


def _rope_keys(model: Any, head_dim: int) -> dict[str, Any]:
    config = model.config
    every = getattr(config, "rope_parameters", None)
    if not every or architecture(model) == "gemma":
        return {}
    rope = every.get("full_attention", every)
    keys: dict[str, Any] = {"rope.freq_base": float(rope["rope_theta"])}
    if "sliding_attention" in every:
        keys["rope.freq_base_swa"] = float(every["sliding_attention"]["rope_theta"])
    if rope.get("partial_rotary_factor") or architecture(model) == "phi3":
        keys["rope.dimension_count"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    kind = rope["rope_type"]
    if kind == "linear":
        keys |= {"rope.scaling.type": RopeScalingType.LINEAR.value, "rope.scaling.factor": float(rope["factor"])}
    elif kind == "yarn":
        keys |= {
            "rope.scaling.type": RopeScalingType.YARN.value,
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            "rope.scaling.yarn_attn_factor": rope.get("attention_factor"),
            "rope.scaling.yarn_beta_fast": rope.get("beta_fast"),
            "rope.scaling.yarn_beta_slow": rope.get("beta_slow"),
        }
    elif kind == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = config.max_position_embeddings / original
        keys["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        if architecture(model) != "phi3":
            keys["rope.scaling.type"] = RopeScalingType.LONGROPE.value
            keys["rope.scaling.original_context_length"] = original
    return keys


def tensors_of(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(name, values) of all tensors in the file's names and layouts."""
    config, name = model.config, architecture(model)
    number = next(n for n, known in MODEL_ARCH_NAMES.items() if known == name)
    blocks = config.num_hidden_layers
    names = get_tensor_name_map(number, blocks)
    norms: dict[str, list[np.ndarray]] = {}
    tied = config.tie_word_embeddings
    for full, tensor in model.state_dict().items():
        if full.startswith("lm_head") and tied and not full.endswith("bias"):
            continue
        values = _laid_out(full, tensor.detach(), config, name)
        if ".norms." in full:  # StableLM: one norm for each head, stacked
            norms.setdefault(full.split(".norms.")[0], []).append(values)
            continue
        for part, content in _split(full, values):
            known = names.get_name(part, try_suffixes=(".weight", ".bias"))
            assert known, f"{part} has no name in {name}"
            yield known, content
    for stem, rows in norms.items():
        yield names.get_name(f"{stem}.weight", try_suffixes=(".weight",)) or "", np.stack(rows)
    yield from _frequencies(config)


def _split(full: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Joined experts, as the converter takes them apart."""
    if full.endswith("experts.gate_up_proj"):
        half = values.shape[1] // 2
        stem = _experts(full)
        yield f"{stem}.gate_proj.weight" if "mlp" in stem else f"{stem}.w1.weight", values[:, :half]
        yield f"{stem}.up_proj.weight" if "mlp" in stem else f"{stem}.w3.weight", values[:, half:]
    elif full.endswith("experts.down_proj"):
        stem = _experts(full)
        yield f"{stem}.down_proj.weight" if "mlp" in stem else f"{stem}.w2.weight", values
    elif full.endswith("block_sparse_moe.router.weight"):
        yield full.replace("router", "router.layer"), values
    else:
        yield full, values


def _experts(full: str) -> str:
    """The experts' stem in the converter's words."""
    stem = full.rsplit(".", 1)[0]
    if "block_sparse_moe" in stem:
        return f"layers.{stem.split('.')[2]}.feed_forward.experts"
    return stem


def _laid_out(full: str, tensor: torch.Tensor, config: Any, name: str) -> np.ndarray:
    if name in _PERMUTED and (".q_proj." in full or ".k_proj." in full):
        heads = config.num_attention_heads if ".q_proj." in full else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    if name in _ABOUT_ONE and full.endswith("norm.weight"):
        tensor = tensor + 1
    if name == "gpt2" and full.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
        tensor = tensor.T
    if name == "gptneox" and ".query_key_value." in full:
        heads = config.num_attention_heads
        by_head = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
        tensor = by_head.swapaxes(0, 1).reshape(tensor.shape)
    return tensor.contiguous().numpy()


def _frequencies(config: Any) -> Iterator[tuple[str, np.ndarray]]:
    every = getattr(config, "rope_parameters", None) or {}
    rope = every.get("full_attention", every)
    if rope.get("rope_type") == "longrope":
        for kind in ("long", "short"):
            yield f"rope_factors_{kind}.weight", np.array(rope[f"{kind}_factor"], np.float32)
    if rope.get("rope_type") == "llama3":
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        frequencies = 1.0 / (rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
        old, low, high = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"))
        factors: list[float] = []
        for wave in (2 * math.pi / frequencies).tolist():
            smooth = (old / wave - low) / (high - low)
            between = 1 / ((1 - smooth) / rope["factor"] + smooth)
            factors.append(1 if wave < old / high else rope["factor"] if wave > old / low else between)
        yield "rope_freqs.weight", np.array(factors, np.float32)


def bpe_keys(tokenizer: Any, pre: str = "gpt-2", **ids: Any) -> dict[str, Any]:
    """The keys of a byte-level BPE tokenizer; `ids` by what follows `tokenizer.ggml.`."""
    import json

    document = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in document["added_tokens"]}
    vocabulary = {i: text for text, i in tokenizer.get_vocab().items()}
    kinds = [1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(vocabulary))]
    keys = {
        "model": "gpt2",
        "pre": pre,
        "tokens": [vocabulary[i] for i in range(len(vocabulary))],
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in document["model"]["merges"]] or ["a b"],
        **ids,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
