"""Extraction by submodel against two peers: time, memory and masks, on one model and the same calibration tokens.

    python -m benchmarks.extract MODEL_DIR --text PATH[:COLUMN] --samples 32 --seq-len 512 --rounds 3 \\
        --peer-python PEER_VENV/bin/python

Run it in the root of the repository, on an idle machine. All three remove half of every row by Wanda in bf16:

- ours: `submodel.prune.extract.extract`, one domain; blocks are read from disk one by one;
- textbook: benchmarks/textbook.py, the published algorithm; the whole model in memory, one sample at a time;
- llm-compressor: benchmarks/peer_llmcompressor.py under a Python of its own (its docstring says how to install it);
  left out without --peer-python. It forces eager attention, the others use sdpa, so a few mask bits differ.

Every run is a fresh process; a round is machine rate, ours, textbook, llm-compressor, and rounds follow one another.

seconds: ours is all of `extract` (identity hash over the checkpoint, reading the weights, writing the store) without
imports; the first round may find the files outside the kernel's cache. Textbook is `textbook_prune`, llm-compressor
`oneshot`: their weights are loaded and touched before, nothing is saved; both in their favour.
tokens/s: calibration tokens / seconds.
peak: VmHWM of the process. The textbook's returned masks, a byte a weight, are taken off (the original drops them).
beyond the weights: the peers' peak less what they held before pruning, imports and whole model included; ours less what
it held after the imports: no weights are taken off, since it never holds the whole model. Its hidden states stand in
files: the kernel may cache them, which is no process's memory; their size is printed.
rate: bf16 F.linear on all threads, best of several: (a) 4096 x 4096 x 4096, (b) all matrices of the model, each times
4 * seq_len rows. What ours computes, per token: 2 operations a weight in the run of the pruned block, and in the
dense run all but the block's last matrix, whose product is skipped. Attention, norms, statistics and the head are not
counted, nor are the few batches of each block whose last product is computed before it is known to be the last.

Not measured: the quality of the sub-models; mixtures of experts, other methods, accelerators.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from benchmarks.measure import (
    MIB,
    ROOT,
    Spread,
    linear_seconds,
    machine,
    machine_line,
    memory_bytes,
    run_child,
    show,
    spread,
    table,
    this_module,
)
from benchmarks.textbook import textbook_prune
from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.base.workers import share_heap
from submodel.calibration import Samples, load_samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.store import Store

OURS, TEXTBOOK, PEER = "ours", "textbook", "llm-compressor"
SQUARE = 4096
FIGURES = ("seconds", "tokens/s", "peak MiB", "beyond the weights MiB")


def run_ours(model_dir: Path, ids: torch.Tensor, out: Path) -> dict[str, Any]:
    """Extract into the new store `out`, as the command does."""
    share_heap()
    base = open_base(str(model_dir))
    _ = MODEL_FOR_CAUSAL_LM_MAPPING[type(base.config)]  # imports the model's code
    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    extract(base, [Samples(OURS, ids)], out, dtype=torch.bfloat16, method="wanda")
    return {"seconds": time.perf_counter() - start, "peak": memory_bytes("VmHWM"), "before": before}


def run_textbook(model_dir: Path, ids: torch.Tensor, out: Path) -> dict[str, Any]:
    """Prune in memory; packed masks go to the .npz file `out`, after the measurement."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, attn_implementation="sdpa")
    for weight in model.parameters():
        weight.count_nonzero()  # the file is mapped lazily; reading it belongs to loading
    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    masks = textbook_prune(model, ids, blocks=blocks_of(model)[1])
    seconds = time.perf_counter() - start
    peak = memory_bytes("VmHWM") - sum(mask.numel() for mask in masks.values())
    packed: Any = {name: np.packbits(mask.numpy(), axis=-1, bitorder="little") for name, mask in masks.items()}
    np.savez(out, **packed)
    return {"seconds": seconds, "peak": peak, "before": before}


def run_rate(model_dir: Path, ids: torch.Tensor, _: Path) -> dict[str, Any]:
    """Operations per second of F.linear, on a square and on the model's own matrices."""
    counts = Counter(shape for block in block_shapes(model_dir) for shape in block)
    rows = 4 * ids.shape[1]
    square = 2 * SQUARE**3 / linear_seconds(SQUARE, (SQUARE, SQUARE))
    seconds = sum(count * linear_seconds(rows, shape) for shape, count in counts.items())
    own = 2 * rows * sum(count * shape[0] * shape[1] for shape, count in counts.items()) / seconds
    return {"square": square, "own": own}


RUNS = {OURS: run_ours, TEXTBOOK: run_textbook, "rate": run_rate}


def block_shapes(model_dir: Path) -> list[list[tuple[int, ...]]]:
    """The shapes of every block's prunable matrices, in the order of its modules."""
    base = open_base(str(model_dir))
    shapes = [
        [tuple(matrix.weight.shape) for matrix in matrices_of(block, "")]
        for block in blocks_of(base.skeleton(torch.bfloat16))[1]
    ]
    if any(len(shape) != 2 for block in shapes for shape in block):
        raise SystemExit(f"{model_dir}: a mixture of experts, which the textbook does not cover: give another model")
    return shapes


def operations_per_token(shapes: list[list[tuple[int, ...]]]) -> int:
    """What ours computes for one token: all matrices pruned, all but the last one dense."""
    return sum(2 * rows * cols for block in shapes for rows, cols in [*block, *block[:-1]])


def equal_percent(store: Path, theirs: Path) -> float:
    """Per cent of equal bits of our masks and those in an .npz file."""
    ours = Store(store).masks(OURS)
    with np.load(theirs) as file:
        if set(file.files) != set(ours):
            odd = sorted(set(file.files) ^ set(ours))[0]
            raise SystemExit(f"{theirs.stem} prunes other matrices than ours ({odd}): nothing to compare")
        unequal = sum(int(np.bitwise_count(ours[name].packed ^ file[name]).sum(dtype=np.int64)) for name in ours)
    return 100 * (1 - unequal / sum(mask.weights for mask in ours.values()))


def run_rounds(args: argparse.Namespace, ids: Path, work: Path) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Rows of every contender and of the machine's rate, a round after the other; masks equal to ours, in per cent."""
    rows: dict[str, list[Any]] = {}
    equal: dict[str, float] = {}
    common = [str(args.model_dir), "--ids", str(ids)]
    for done in range(args.rounds):
        for name in ["rate", OURS, TEXTBOOK] + ([PEER] if args.peer_python else []):
            out = work / (OURS if name == OURS else f"{name}.npz")
            if name == PEER:
                script = str(ROOT / "benchmarks" / "peer_llmcompressor.py")
                # -P: its libraries look for a package `kernels`, and the script's folder has a module of that name
                command = [args.peer_python, "-P", script, str(args.model_dir), str(ids), str(out)]
                found = run_child(command, args.threads)
                sizes = {"peak": found["peak_rss_bytes"], "before": found["rss_before_prune_bytes"]}
                row = {"seconds": found["seconds_prune"], **sizes, "versions": found["versions"]}
            else:
                command = this_module("benchmarks.extract", *common, "--run", name, "--out", str(out))
                row = run_child(command, args.threads)
            rows.setdefault(name, []).append(row)
            note = f"{row['seconds']:.1f} s" if "seconds" in row else f"{row['square'] / 1e9:.0f} GFLOP/s"
            print(f"round {done + 1} of {args.rounds}: {name} {note}", file=sys.stderr)
            if done == 0 and name in (TEXTBOOK, PEER):
                equal[name] = equal_percent(work / OURS, out)
        shutil.rmtree(work / OURS)
    return rows, equal


def summary(rows: dict[str, list[Any]], tokens: int, operations: int) -> dict[str, Any]:
    """Spreads over the rounds; ratios and shares are taken round by round."""
    figures: dict[str, dict[str, list[float]]] = {}
    for name in (name for name in rows if name != "rate"):
        columns = [
            (r["seconds"], tokens / r["seconds"], r["peak"] / MIB, (r["peak"] - r["before"]) / MIB) for r in rows[name]
        ]
        figures[name] = dict(zip(FIGURES, (list(column) for column in zip(*columns, strict=True)), strict=True))

    def ratio(above: list[float], below: list[float]) -> Spread:
        return spread([a / b for a, b in zip(above, below, strict=True)])

    ours = [tokens * operations / row["seconds"] for row in rows[OURS]]
    rates = {"square": [row["square"] for row in rows["rate"]], "own": [row["own"] for row in rows["rate"]]}
    return {
        "figures": {name: {key: spread(values) for key, values in found.items()} for name, found in figures.items()},
        "theirs_over_ours": {
            name: {key: ratio(found[key], figures[OURS][key]) for key in FIGURES if key != "tokens/s"}
            for name, found in figures.items()
            if name != OURS
        },
        "gflops": {"ours": spread([x / 1e9 for x in ours])}
        | {key: spread([x / 1e9 for x in values]) for key, values in rates.items()},
        "percent_of_rate": {key: ratio([100 * x for x in ours], values) for key, values in rates.items()},
    }


def text(document: dict[str, Any]) -> str:
    names = list(document["figures"])
    rows = [["", *names]]
    rows += [[key, *(show(document["figures"][name][key]) for name in names)] for key in FIGURES]
    ratios = document["theirs_over_ours"]
    for key in ratios[TEXTBOOK]:
        rows.append(
            [f"theirs / ours: {key.removesuffix(' MiB')}", *["", *(show(ratios[name][key]) for name in names[1:])]]
        )
    rows.append(["mask bits equal to ours, %", *["", *(f"{document['masks_equal'][n]:.3f}" for n in names[1:])]])
    rates = [["", "GFLOP/s", "ours is % of it"], ["ours", show(document["gflops"]["ours"])]]
    for key, label in {"square": f"machine (a): {SQUARE}^3", "own": "machine (b): the model's matrices"}.items():
        rates.append([label, show(document["gflops"][key]), show(document["percent_of_rate"][key])])
    lines = [
        f"{document['model']}: {document['tokens']:,} tokens ({document['samples']} x {document['seq_len']}), "
        f"median (min..max) of {document['rounds']} round{'s' * (document['rounds'] > 1)}; "
        f"ours has {document['hidden_states_mib']:.1f} MiB of hidden states in files",
        machine_line(document["machine"], document["load_before"], document["load_after"]),
        table(rows),
        "",
        table(rates),
    ]
    return "\n".join(lines if PEER in names else [*lines, f"{PEER}: skipped, since no --peer-python was given"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Extraction by submodel against two peers.")
    parser.add_argument("model_dir", type=Path, help="a Hugging Face directory")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", metavar="PATH[:COLUMN]", help="calibration text")
    given.add_argument("--ids", type=Path, metavar="FILE.npy", help="or its tokens: int64 (samples, seq_len)")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", metavar="PATH", help="a Python that has llm-compressor")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(RUNS[args.run](args.model_dir, torch.from_numpy(np.load(args.ids)), args.out)))
        return
    if min(args.rounds, args.threads, args.samples, args.seq_len) < 1:
        parser.error("--rounds, --threads, --samples and --seq-len: give 1 or more")
    args.model_dir = args.model_dir.resolve()
    base = open_base(str(args.model_dir))
    operations = operations_per_token(block_shapes(args.model_dir))
    if args.ids:
        ids = torch.from_numpy(np.load(args.ids))
    else:
        size = {"samples": args.samples, "seq_len": args.seq_len}
        ids = load_samples(OURS, args.text, base.tokenizer, **size, seed=0).ids
    if not args.peer_python:
        print(f"{PEER} skipped: give --peer-python, a Python that has it", file=sys.stderr)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "ids.npy", ids.numpy())
        rows, equal = run_rounds(args, Path(folder) / "ids.npy", Path(folder))
    document = {
        "model": args.model_dir.name,
        "samples": ids.shape[0],
        "seq_len": ids.shape[1],
        "tokens": ids.numel(),
        "rounds": args.rounds,
        "machine": machine(args.threads),
        "load_before": before,
        "load_after": os.getloadavg()[0],
        **summary(rows, ids.numel(), operations),
        "masks_equal": equal,
        "hidden_states_mib": 2 * ids.numel() * base.config.get_text_config().hidden_size * 2 / MIB,
        "runs": rows,
    }
    print(json.dumps(document) if args.json else text(document))


if __name__ == "__main__":
    try:
        main()
    except SubmodelError as error:
        raise SystemExit(str(error)) from error
