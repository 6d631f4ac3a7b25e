"""Common-sense reasoning and GSM8K rows by submodel against lm-evaluation-harness's own HFLM, on the same problems.

    python -m benchmarks.harness_rows MODEL --data-dir DIR --limit 20

One process, one model in memory, one set after the other: ours, then `lm_eval.evaluator.evaluate` with
`lm_eval.models.huggingface.HFLM` over the same documents. Ours uses one single-threaded task a core, theirs all threads
on one batch. Times hold the building of prompts and the scoring of answers, not the loading of model and data. Ours
shares the beginning that the choices of a question have in common; theirs computes it for every choice, except where
the choices are single tokens.

A document differs when any of its metrics does. Theirs takes the log-softmax in float32 (`softmax_dtype`): by default
it is taken in the model's type, and in bfloat16 the coarse figures tie. In float32 the greatest difference between two
log-likelihoods is rounding.

Not measured: sampling, chat templates, accelerators.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.measure import machine, machine_line, table
from submodel.errors import SubmodelError
from submodel.runtime import Loaded, load
from submodel.tasks import harness
from submodel.tasks.cell import Cell, Settings, Task

NAMES = [*harness.SETS, "gsm8k"]
MAIN = {name: "acc" for name in harness.SETS} | {"gsm8k": "exact_match,flexible-extract"}


def ours(cell: Cell) -> dict[str, Any]:
    """Values by metric, the metrics of every document, its answers, seconds."""
    from submodel.tasks import harness_tasks

    ask = ask_of(cell)
    start = time.perf_counter()
    rows = {row.metric: row.value for row in harness.HARNESS[cell.task.name](cell)}
    seconds = time.perf_counter() - start
    task = harness_tasks.build_task(ask.name, ask.documents, ask.generation)
    scores, answers = harness_tasks.run_task(task, harness_tasks.HarnessModel(cell.loaded), cell.journal(ask.rows[0]))
    return {"values": rows, "documents": scores, "answers": answers, "seconds": seconds}


def theirs(cell: Cell, batch_size: int) -> dict[str, Any]:
    """The same by lm_eval alone."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models import huggingface

    from submodel.tasks import harness_tasks

    ask = ask_of(cell)
    made: Any = huggingface.HFLM
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        model = made(
            pretrained=cell.loaded.model,
            tokenizer=cell.loaded.tokenizer,
            backend="causal",
            batch_size=batch_size,
            softmax_dtype=torch.float32,
        )
        start = time.perf_counter()
        task = harness_tasks.build_task(ask.name, ask.documents, ask.generation)
        found: Any = evaluate(model, {"tasks": {"task": task}}, log_samples=True, bootstrap_iters=0)
        seconds = time.perf_counter() - start
    values = {plain(k): v for k, v in found["results"]["task"].items() if "," in k and "stderr" not in k}
    documents: list[dict[str, float]] = [{} for _ in ask.documents]
    answers: list[Any] = [None for _ in ask.documents]
    for sample in found["samples"]["task"]:
        documents[sample["doc_id"]] |= {
            plain(f"{metric},{sample['filter']}"): float(sample[metric]) for metric in sample["metrics"]
        }
        answers[sample["doc_id"]] = [answer for [answer] in sample["resps"]]
    return {"values": values, "documents": documents, "answers": answers, "seconds": seconds}


def plain(metric: str) -> str:
    return metric.removesuffix(",none")


def ask_of(cell: Cell) -> Any:
    return harness._ask_gsm8k(cell) if cell.task.name == "gsm8k" else harness._ask_set(cell, cell.task.name)


def compare(name: str, mine: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Differences between the two, document by document, in what both measure."""
    pairs = list(zip(mine["documents"], other["documents"], strict=True))
    both = list(zip(mine["answers"], other["answers"], strict=True))
    row: dict[str, Any] = {
        "set": name,
        "documents": len(pairs),
        "ours": mine["values"],
        "theirs": other["values"],
        "differing": [at for at, (a, b) in enumerate(pairs) if any(a[metric] != b[metric] for metric in b)],
        "seconds": {"ours": mine["seconds"], "theirs": other["seconds"]},
    }
    if name == "gsm8k":
        row["texts_differing"] = [at for at, (a, b) in enumerate(both) if a != b]
    else:
        row["nats"] = max(abs(x[0] - y[0]) for a, b in both for x, y in zip(a, b, strict=True))
        row["greedy_differing"] = sum(x[1] != y[1] for a, b in both for x, y in zip(a, b, strict=True))
    return row


def text(document: dict[str, Any]) -> str:
    head = [
        "set",
        "documents",
        "metric",
        "ours",
        "theirs",
        "differing",
        "max nats",
        "ours s",
        "theirs s",
        "theirs/ours",
    ]
    rows = [head]
    for row in document["rows"]:
        metric, seconds = MAIN[row["set"]], row["seconds"]
        nats = f"{row['nats']:.1e}" if "nats" in row else f"{len(row['texts_differing'])} texts"
        rows.append(
            [
                row["set"],
                str(row["documents"]),
                metric,
                f"{row['ours'][metric]:.4f}",
                f"{row['theirs'][metric]:.4f}",
                ",".join(map(str, row["differing"])) or "none",
                nats,
                f"{seconds['ours']:.1f}",
                f"{seconds['theirs']:.1f}",
                f"{seconds['theirs'] / seconds['ours']:.2f}",
            ]
        )
    return "\n".join(
        [
            f"{document['model']} in {document['dtype']}: first {document['limit']} documents of each set, "
            f"theirs at batch size {document['batch_size']}",
            machine_line(document["machine"], document["load_before"], document["load_after"]),
            table(rows),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="csr and gsm8k rows by submodel against lm_eval's HFLM.")
    parser.add_argument("model", help="a Hugging Face directory, a hub id, a .gguf file or STORE@NAME")
    parser.add_argument("--data-dir", type=Path, help="where the sets lie; the hub without it")
    parser.add_argument("--limit", type=int, default=20, help="first N documents of each set")
    parser.add_argument("--set", action="append", choices=NAMES, help="this set alone; can be given again")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--max-tokens", type=int, help="new tokens of gsm8k, 256 by default")
    parser.add_argument("--batch-size", type=int, default=8, help="of theirs")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    args = parser.parse_args()
    if min(args.limit, args.batch_size) < 1:
        parser.error("--limit and --batch-size: give 1 or more")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    loaded: Loaded = load(args.model, dtype=getattr(torch, args.dtype))
    settings = Settings(data_dir=args.data_dir, limit=args.limit, max_tokens=args.max_tokens)
    shared: dict[Any, Any] = {}
    before, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.set or NAMES:  # each set's result goes to standard error as soon as it is there
            out = Path(folder) / f"{name}.jsonl"
            cell = Cell(
                Task(name), loaded, settings, out, frozenset(), lambda *_: None, lambda line: None, shared=shared
            )
            ask_of(cell)  # reads the set and imports lm_eval: no part of either time
            rows.append(compare(name, ours(cell), theirs(cell, args.batch_size)))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    document = {
        "model": args.model,
        "dtype": args.dtype,
        "limit": args.limit,
        "batch_size": args.batch_size,
        "machine": machine(torch.get_num_threads()),
        "load_before": before,
        "load_after": os.getloadavg()[0],
        "rows": rows,
    }
    print(json.dumps(document) if args.json else text(document))


if __name__ == "__main__":
    try:
        main()
    except SubmodelError as error:
        raise SystemExit(str(error)) from error
