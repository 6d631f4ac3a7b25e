"""Wanda by llm-compressor on the same calibration tokens, for a comparison of masks, time and memory.

    python -P peer_llmcompressor.py MODEL_DIR IDS.npy OUT.npz --sparsity 0.5 --batch-size 1

Run it with a Python of its own, since the peer pins its own dependencies:

    pip install torch==2.13.0 llmcompressor==0.14.0.1

It prunes in bfloat16 on the CPU, unstructured ("0:0"), every Linear but the lm_head, with the peer's
sequential pipeline. IDS.npy is int64 (n_samples, seq_len); the rows are fed as they are, in order.
OUT.npz holds one packed mask (True = kept) a pruned parameter, under the parameter's name:
np.packbits(mask, axis=1, bitorder="little"), uint8 (rows, ceil(cols / 8)); shapes are the model's.
One JSON line on stdout: seconds_load, seconds_prune (the `oneshot` call alone, nothing is saved),
rss_before_prune_bytes, peak_rss_bytes (of the whole process, loading included), versions.
All that the peer prints goes to stderr. The pipeline forces eager attention, so hold its masks
against a model loaded with attn_implementation="eager". Not covered: N:M patterns, mixture-of-experts models.
"""

import argparse
import contextlib
import json
import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
# Without this the peer logs a line a matrix (its METRIC level lies between WARNING and ERROR).
os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "ERROR")

import numpy as np
import torch

with contextlib.redirect_stdout(sys.stderr):  # the peer's logger keeps the stdout of its import
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning.wanda import WandaPruningModifier
from transformers import AutoModelForCausalLM, PreTrainedModel

PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch", "numpy")


def memory_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process; without /proc, the peak for both."""
    # ru_maxrss is only second choice: on Linux it counts the parent's memory before the exec too.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) * 1024  # kB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def batches(ids: torch.Tensor, batch_size: int) -> torch.utils.data.DataLoader:
    """The rows of `ids` in order. A ready DataLoader passes by the peer's own shuffling sampler
    and its truncating collator."""
    return torch.utils.data.DataLoader(
        ids,  # type: ignore[arg-type]  # a tensor is a sequence of rows
        batch_size=batch_size,
        shuffle=False,
        collate_fn=lambda rows: {"input_ids": torch.stack(rows)},
    )


def prune(model: PreTrainedModel, ids: torch.Tensor, sparsity: float, batch_size: int) -> float:
    """Prune `model` in place and return the seconds taken by `oneshot`."""
    recipe = WandaPruningModifier(
        sparsity=sparsity,
        mask_structure="0:0",
        targets=["Linear"],
        # The peer looks the lm_head up as "lm_head." here, so a plain "lm_head" would not match.
        ignore=["re:.*lm_head"],
    )
    start = time.perf_counter()
    # The pipeline falls back to the CPU by itself and has no faster setting there:
    # sequential_prefetch only hides copies to an accelerator, so it stays off.
    oneshot(
        model=model,
        # Any object will do: token ids need no tokenizer, but without a processor oneshot loads one.
        processor=object(),  # type: ignore[arg-type]
        dataset=batches(ids, batch_size),
        num_calibration_samples=len(ids),
        batch_size=batch_size,
        shuffle_calibration_samples=False,
        recipe=recipe,
        pipeline="sequential",
    )
    return time.perf_counter() - start


def keep_masks(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Packed masks of all Linear but the lm_head, read from the zeros of the pruned weights.

    A weight that was zero before has the lowest score, so it is among those removed as long as
    its row had fewer zeros than it loses.
    """
    head = model.get_output_embeddings()
    return {
        f"{name}.weight": np.packbits((module.weight != 0).numpy(), axis=1, bitorder="little")
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Wanda masks by llm-compressor from given token ids.")
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("ids", type=Path, help="int64 .npy (n_samples, seq_len)")
    parser.add_argument("out", type=Path, help=".npz of packed keep masks")
    parser.add_argument("--sparsity", type=float, default=0.5, help="fraction removed from each row")
    parser.add_argument("--batch-size", type=int, default=1, help="samples a forward pass")
    args = parser.parse_args()

    ids = torch.from_numpy(np.load(args.ids))
    with contextlib.redirect_stdout(sys.stderr):
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(args.model_dir, dtype=torch.bfloat16)
        for weight in model.parameters():
            weight.count_nonzero()  # the file is mapped lazily; reading it belongs to loading
        seconds_load = time.perf_counter() - start
        rss_before = memory_bytes("VmRSS")
        seconds_prune = prune(model, ids, args.sparsity, args.batch_size)
        peak = memory_bytes("VmHWM")  # before the masks are built
        np.savez(args.out, **keep_masks(model))
    row = {
        "seconds_load": round(seconds_load, 3),
        "seconds_prune": round(seconds_prune, 3),
        "peak_rss_bytes": peak,
        "rss_before_prune_bytes": rss_before,
        "versions": {name: version(name) for name in PACKAGES},
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
