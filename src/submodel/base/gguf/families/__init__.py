"""The families of models that are read from GGUF, by what llama.cpp calls them."""

from submodel.base.gguf.families.cohere import COHERE2, COMMAND_R, NEMOTRON, STABLELM
from submodel.base.gguf.families.family import Family
from submodel.base.gguf.families.gemma import GEMMA, GEMMA2, GEMMA3
from submodel.base.gguf.families.llama import ARCEE, GRANITE, GRANITE_MOE, LLAMA, SMOLLM3
from submodel.base.gguf.families.olmo import OLMO, OLMO2, OLMOE
from submodel.base.gguf.families.phi import PHI2, PHI3
from submodel.base.gguf.families.qwen import QWEN2, QWEN2_MOE, QWEN3, QWEN3_MOE, SEED_OSS
from submodel.base.gguf.families.starcoder import GPT2, GPT_NEOX, STARCODER, STARCODER2

FAMILIES: dict[str, Family] = {
    "arcee": ARCEE,
    "cohere2": COHERE2,
    "command-r": COMMAND_R,
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
    "gpt2": GPT2,
    "gptneox": GPT_NEOX,
    "granite": GRANITE,
    "granitemoe": GRANITE_MOE,
    "llama": LLAMA,
    "nemotron": NEMOTRON,
    "olmo": OLMO,
    "olmo2": OLMO2,
    "olmoe": OLMOE,
    "phi2": PHI2,
    "phi3": PHI3,
    "qwen2": QWEN2,
    "qwen2moe": QWEN2_MOE,
    "qwen3": QWEN3,
    "qwen3moe": QWEN3_MOE,
    "seed_oss": SEED_OSS,
    "smollm3": SMOLLM3,
    "stablelm": STABLELM,
    "starcoder": STARCODER,
    "starcoder2": STARCODER2,
}
