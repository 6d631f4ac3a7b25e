"""How much faster a model decodes with a head of fewer rows, and the limit: a head of next to none.

    python -m benchmarks.head STORE@NAME [--format int8] [--threads 1] [--rounds 11]

STORE@NAME was extracted with --vocab domain. Its complete head, its own, one of a quarter of the rows and one of 256
take turns, 16 steps of one sequence each; a ratio is of two times in the same round.
"""

import argparse
import statistics
import time

import numpy as np
import torch

import submodel
from benchmarks.measure import show, spread
from submodel.prune.vocabulary import Vocabulary
from submodel.runtime.forward import prefill, step
from submodel.runtime.load import Loaded, head_rows
from submodel.runtime.packed.model import load_packed
from submodel.store import Store, split_reference

STEPS, PROMPT = 16, 256


def heads(reference: str, form: str) -> dict[str, Loaded]:
    """The sub-model with each of the heads, by its number of rows."""
    complete = submodel.load(reference, weight_format=form, complete_head=True)
    place = split_reference(reference)
    assert place is not None and complete.vocabulary is not None
    masks, kept = Store(place[0]).masks(place[1]), complete.vocabulary.ids()
    rows = complete.vocabulary.rows
    result = {f"{rows:,} rows": Loaded(reference, complete.base, complete.model, None, form)}
    for ids in (kept, kept[:: max(1, 4 * len(kept) // rows)][: rows // 4], np.arange(256)):
        vocabulary = Vocabulary.of(rows, ids, ids)
        model = load_packed(complete.base, masks, form, head_rows(vocabulary))
        result[f"{len(ids):,} rows"] = Loaded(reference, complete.base, model, None, form, vocabulary)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="STORE@NAME")
    parser.add_argument("--format", default="int8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = heads(args.model, args.format)
    prompt = list(range(1000, 1000 + PROMPT))
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        caches = {name: prefill(model, prompt, PROMPT + STEPS * (args.rounds + 1))[0] for name, model in models.items()}
        for number in range(args.rounds + 1):
            for name, model in models.items():
                started = time.perf_counter()
                for token in range(STEPS):
                    step(model, caches[name], [100 + token])
                if number:  # the first round warms up
                    times[name].append((time.perf_counter() - started) / STEPS * 1000)
    complete = next(iter(times.values()))
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(complete, taken, strict=True)]
        faster = f"{show(spread(ratios))} times as fast as the complete head"
        print(f"{name}: {statistics.median(taken):.2f} ms a token, {faster}")


if __name__ == "__main__":
    main()
