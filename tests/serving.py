"""A server in this process on a tiny store, for tests: a base with a chat template and fill-in-the-middle tokens."""

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.prune.mask import pack_bits
from submodel.router import Decision, Signals
from submodel.serve.registry import PackedRegistry
from submodel.serve.server import Server, Settings
from submodel.store import Mask, open_or_create
from tests import tiny
from tests.test_packed_models import RECIPE

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SUBMODELS = ("java", "python", "maths")
CONTEXT = 512
LANGUAGES = {"def ": "python", "class ": "java"}


def choose(question: Signals) -> Decision:
    """Stands for a router: header, file, fill in the middle, words, nothing."""
    if question.language:
        return Decision(question.language, 1.0, "header")
    if question.file:
        return Decision({"py": "python", "java": "java"}.get(question.file.rpartition(".")[2]), 0.99, "file")
    for word, name in LANGUAGES.items():
        if word in question.text:
            return Decision(name, 0.9, "detector" if question.suffix is None else "fim", {name: 0.9})
    return Decision(None, 0.3, "default")


def make_store(folder: Path, names: tuple[str, ...] = SUBMODELS, context: int = CONTEXT) -> Path:
    """A bfloat16 base, and random sub-models of it."""
    model_type = "qwen2"
    settings = {**tiny.FAMILIES[model_type], "max_position_embeddings": context}
    config = AutoConfig.for_model(model_type, vocab_size=272, bos_token_id=257, eos_token_id=258, **settings)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.copy_(0.15 * torch.randn_like(parameter))
    base_folder = folder / "model"
    model.to(torch.bfloat16).save_pretrained(base_folder)
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(FIM)})  # type: ignore[dict-item]
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base_folder)
    base = open_base(str(base_folder))
    rng = np.random.default_rng(0)
    prefix, blocks = blocks_of(base.skeleton(torch.bfloat16))
    about = {"reference": str(base_folder), "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    store = open_or_create(folder / "store", about)
    for name in names:
        kept = {
            matrix.name: Mask(pack_bits(rng.random(matrix.weight.shape) < 0.5), matrix.weight.shape[-1])
            for i, block in enumerate(blocks)
            for matrix in matrices_of(block, f"{prefix}.{i}")
        }
        store.add(name, kept, RECIPE)
    return folder / "store"


@contextlib.contextmanager
def running(store: Path, registry: Any = None, **settings: Any) -> Iterator[Server]:
    """A server on a free port of this machine, in a thread."""
    server = Server(registry or PackedRegistry(store, "bf16"), choose, Settings(port=0, **settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server._server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
