"""Decoding end to end: one sequence, each format against `transformers` eager on the dense base, in turns.

    python -m benchmarks.decode BASE STORE@NAME [--threads N] [--rounds 12] [--formats dense,bf16,int8,int4]

All models are in one process and take four steps each in turn, so that whatever else the machine does falls on all of
them alike. Printed are the median time of a step with its quartiles, tokens a second by the median, and what loading
the model added to the process's resident memory.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else torch's idle threads spin through the turns of others

import torch

from benchmarks.measure import MIB, memory_bytes
from submodel.base import native
from submodel.runtime import Loaded, load
from submodel.runtime.forward import prefill, step

_PROMPT = 'def quicksort(items):\n    """Sort a list."""\n'
_STEPS = 4


def _load(base: str, reference: str, form: str) -> Loaded:
    if form == "transformers":
        return load(base)
    return load(base if form.startswith("dense") else reference, weight_format=form)


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("base")
    p.add_argument("reference", metavar="STORE@NAME")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--formats", default="dense,dense-int8,bf16,int8,int4")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    models: dict[str, Loaded] = {}
    sizes: dict[str, float] = {}
    for form in ["transformers", *args.formats.split(",")]:
        before = memory_bytes("VmRSS")
        models[form] = _load(args.base, args.reference, form)
        sizes[form] = (memory_bytes("VmRSS") - before) / MIB
    prompt = next(iter(models.values())).tokenizer(_PROMPT)["input_ids"]
    room = len(prompt) + _STEPS * args.rounds + 1
    state = {form: prefill(loaded, prompt, room) for form, loaded in models.items()}
    times: dict[str, list[float]] = {form: [] for form in models}
    for _ in range(args.rounds):
        for form, loaded in models.items():
            cache, logits = state[form]
            for _ in range(_STEPS):
                start = time.perf_counter()
                logits = step(loaded, cache, [int(logits.argmax())])
                times[form].append(time.perf_counter() - start)
            state[form] = cache, logits
    print(f"{native.instruction_set()}, {args.threads} threads, {args.reference}")
    print(f"{'':14}{'ms':>8}{'q1':>8}{'q3':>8}{'tok/s':>8}{'x':>7}{'MiB':>8}")
    eager = statistics.median(times["transformers"])
    for form, found in times.items():
        low, median, high = statistics.quantiles(found, n=4)
        print(
            f"{form:14}{1e3 * median:8.1f}{1e3 * low:8.1f}{1e3 * high:8.1f}{1 / median:8.1f}"
            f"{eager / median:7.2f}{sizes[form]:8.0f}"
        )


if __name__ == "__main__":
    main()
