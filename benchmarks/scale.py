"""Extraction from a model of CodeLlama-7B's shapes: does it stay under 3 GiB, and how long does it take?

    python -m benchmarks.scale
    python -m benchmarks.scale --layers 2        # a quick run: 2 of the 32 blocks, of the same size

Run it in the root of the repository. It writes a checkpoint of CodeLlama-7B's exact shapes with random bf16 weights
(13.5 GB, one shard at a time), then, in a fresh process, extracts two domains from it in one walk (Wanda, half of
every row, bf16): 16 samples of 256 tokens each, random ids from the lower and from the upper half of the vocabulary.
Checkpoint and store go to a temporary directory or under --dir, and are deleted unless --keep is given; a whole
checkpoint that an earlier run kept there is used again.

Measured, of the process that extracts: peak resident memory (VmHWM) up to the end of the last block and in all, what
it held after its imports, seconds before the blocks (identity hash, embeddings, recording), in the blocks and after
them (masks into the store), tokens per second, bytes of the store.
With fewer --layers a block takes the same memory, but what is held while the store is written, all masks of a domain
and those of the one it is coded against, is smaller than for the whole model.

The estimate for the paper's run (128 samples of 4096 tokens, one domain, 32 blocks) is arithmetic, not a measurement:
the measured seconds per token and block times its tokens and blocks. What a block costs whatever the number of
tokens (reading it, choosing its masks) is counted as if it grew with them; that attention costs more on 4096 tokens
than on 256 is not counted.

Not measured: quality (the weights are random), peak memory and time of writing the checkpoint, memory of the kernel's
file cache.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, LlamaConfig

from benchmarks.measure import GIB, MIB, machine, machine_line, memory_bytes, number, run_child, table, this_module
from submodel.base.opening import open_base
from submodel.base.workers import share_heap
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract

GOAL_GIB = 3
LAYERS = 32
SAMPLES, SEQ_LEN, DOMAINS = 16, 256, ("lower", "upper")
PAPER_TOKENS = 128 * 4096
LAYERS_PER_SHARD = 2
SHAPES: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32016,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
}


def shards(config: LlamaConfig) -> Iterator[dict[str, tuple[int, ...]]]:
    """Tensor name -> shape, a shard after the other: embeddings, a few layers each, head."""
    hidden, inner = config.hidden_size, config.intermediate_size
    layer: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"},
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    yield {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for first in range(0, config.num_hidden_layers, LAYERS_PER_SHARD):
        last = min(first + LAYERS_PER_SHARD, config.num_hidden_layers)
        yield {f"model.layers.{i}.{name}": shape for i in range(first, last) for name, shape in layer.items()}
    yield {"model.norm.weight": (hidden,), "lm_head.weight": (config.vocab_size, hidden)}


def write_checkpoint(config: LlamaConfig, folder: Path) -> None:
    """Random weights of deviation 0.02, norms of 1; config.json is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    whole = list(shards(config))
    index: dict[str, str] = {}
    for at, shapes in enumerate(whole):
        file = f"model-{at + 1:05d}-of-{len(whole):05d}.safetensors"
        print(f"writing {file}", file=sys.stderr)
        tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
        for tensor in tensors.values():
            if tensor.dim() == 2:
                tensor.normal_(0, 0.02, generator=generator)
        save_file(tensors, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(shapes, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config.save_pretrained(folder)


def weights_of(config: LlamaConfig) -> tuple[int, int]:
    """How many weights the model has, and how many of them can be pruned."""
    shapes = [(name, torch.Size(shape).numel()) for shard in shards(config) for name, shape in shard.items()]
    return sum(size for _, size in shapes), sum(size for name, size in shapes if "_proj" in name)


def check_room(folder: Path, config: LlamaConfig, have_checkpoint: bool) -> None:
    """End with one line when the disk is too small: checkpoint, masks in work and in the store, hidden states."""
    total, prunable = weights_of(config)
    hidden = 2 * SAMPLES * SEQ_LEN * config.hidden_size * 2
    need = len(DOMAINS) * (2 * prunable // 8 + hidden) + (0 if have_checkpoint else 2 * total)
    free = shutil.disk_usage(folder).free
    if free < 1.05 * need:
        raise SystemExit(
            f"{folder}: {free / 1e9:.1f} GB free, {1.05 * need / 1e9:.1f} GB needed: "
            "give --dir on a larger disk, or fewer --layers"
        )


def run(checkpoint: Path, out: Path) -> dict[str, Any]:
    """Extract both domains into the new store `out`, as the command does; what it took."""
    share_heap()
    base = open_base(str(checkpoint))
    _ = MODEL_FOR_CAUSAL_LM_MAPPING[type(base.config)]  # imports the model's code
    generator = torch.Generator().manual_seed(0)
    half = base.config.vocab_size // 2
    domains = [
        Samples(name, torch.randint(at * half, (at + 1) * half, (SAMPLES, SEQ_LEN), generator=generator))
        for at, name in enumerate(DOMAINS)
    ]
    marks: list[float] = []
    peak_blocks = 0

    def progress(done: int, total: int) -> None:
        nonlocal peak_blocks
        if done in (0, total):
            marks.append(time.perf_counter())
            peak_blocks = memory_bytes("VmHWM")

    imports = memory_bytes("VmRSS")
    start = time.perf_counter()
    extract(base, domains, out, dtype=torch.bfloat16, progress=progress, method="wanda")
    end = time.perf_counter()
    return {
        "seconds": end - start,
        "seconds_before": marks[0] - start,
        "seconds_blocks": marks[1] - marks[0],
        "seconds_after": end - marks[1],
        "imports_bytes": imports,
        "peak_blocks_bytes": peak_blocks,
        "peak_bytes": memory_bytes("VmHWM"),
    }


def summary(row: dict[str, Any], config: LlamaConfig, store_bytes: int) -> dict[str, Any]:
    tokens, layers = len(DOMAINS) * SAMPLES * SEQ_LEN, config.num_hidden_layers
    total, prunable = weights_of(config)
    return {
        "layers": layers,
        "weights_bytes": 2 * total,
        "tokens": tokens,
        **row,
        "goal_bytes": GOAL_GIB * GIB,
        "under_goal": row["peak_bytes"] < GOAL_GIB * GIB,
        "seconds_per_block": row["seconds_blocks"] / layers,
        "tokens_per_second": tokens / row["seconds"],
        "store_bytes": store_bytes,
        "masks_bytes_per_domain_and_block": prunable // layers // 8,
        "estimate_paper_seconds": row["seconds_blocks"] / (tokens * layers) * PAPER_TOKENS * LAYERS,
    }


def text(found: dict[str, Any]) -> str:
    verdict = f"{'under' if found['under_goal'] else 'over'} the goal of {GOAL_GIB} GiB"
    rows = [
        ["", "measured"],
        ["peak memory, GiB", number(found["peak_bytes"] / GIB)],
        ["peak memory up to the last block, GiB", number(found["peak_blocks_bytes"] / GIB)],
        ["memory after imports, GiB", number(found["imports_bytes"] / GIB)],
        ["seconds", number(found["seconds"])],
        ["seconds before the blocks", number(found["seconds_before"])],
        ["seconds per block", number(found["seconds_per_block"])],
        ["seconds after the blocks", number(found["seconds_after"])],
        ["tokens/s", number(found["tokens_per_second"])],
        ["store, MiB", number(found["store_bytes"] / MIB)],
    ]
    lines = [
        f"{found['weights_bytes'] / 1e9:.1f} GB of random weights, {found['layers']} of {LAYERS} layers; "
        f"{len(DOMAINS)} domains of {SAMPLES} x {SEQ_LEN} tokens",
        machine_line(found["machine"], found["load_before"], found["load_after"]),
        table(rows),
        f"peak memory: {verdict}",
        f"estimate, not measured: the paper's run (128 x 4096 tokens, one domain, {LAYERS} blocks) "
        f"would take {found['estimate_paper_seconds'] / 3600:.1f} hours in its blocks",
    ]
    if found["layers"] < LAYERS:
        held = found["masks_bytes_per_domain_and_block"] / MIB
        lines.insert(
            4, f"not the whole model: each further block adds {held:.0f} MiB of masks a domain to the last step"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of extraction from a model of CodeLlama-7B's shapes.")
    parser.add_argument("--dir", type=Path, help="where to write (default: a temporary directory)")
    parser.add_argument("--layers", type=int, default=LAYERS, help="blocks to write and walk")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", action="store_true", help="leave checkpoint and store where they are")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--run", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(*args.run)))
        return
    if min(args.layers, args.threads) < 1:
        parser.error("--layers and --threads: give 1 or more")
    config = LlamaConfig(num_hidden_layers=args.layers, dtype=torch.bfloat16, **SHAPES)
    folder = Path(tempfile.mkdtemp() if args.dir is None else args.dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, store = folder / f"base-{args.layers}", folder / f"store-{args.layers}"
    ready = (checkpoint / "config.json").exists()  # written last
    written = [store] if ready else [store, checkpoint]
    try:
        if store.exists():
            written = []
            raise SystemExit(f"{store}: there from an earlier run: remove it, or give another --dir")
        check_room(folder, config, ready)
        if not ready:
            write_checkpoint(config, checkpoint)
        before = os.getloadavg()[0]
        row = run_child(this_module("benchmarks.scale", "--run", str(checkpoint), str(store)), args.threads)
        loads = {"load_before": before, "load_after": os.getloadavg()[0]}
        store_bytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
        found = {**summary(row, config, store_bytes), "machine": machine(args.threads), **loads}
        print(json.dumps(found) if args.json else text(found))
        if args.keep:
            print(f"kept: {checkpoint} and {store}", file=sys.stderr)
    finally:
        for path in [] if args.keep else written:
            shutil.rmtree(path, ignore_errors=True)
        if args.dir is None and not args.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except SubmodelError as error:
        raise SystemExit(str(error)) from error
