"""Routing accuracy and latency on labelled requests that were not seen at calibration.

    python -m benchmarks.routing MODEL --data DIR [--out DIR] [--limit N] [--seed N] [--apart N] [--prompts N] [--fresh]

DIR holds named sets in their hub columns. Sub-models for Python, Java, C++, JavaScript, maths and translation are
fitted from train splits; requests come from test splits of the same sets and of sets that were not fitted to
(HumanEval-X, MBPP, MathQA, PUD), with phrases other than those that the fit makes. What belongs to no sub-model
(common-sense questions, news, tasks that name no language) should go to the base. The sub-models have no weights:
routing reads none. --apart N leaves out all that is made of what the default seed draws with --limit N: the router was
made while looking at N = 60.
"""

import argparse
import json
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration.sets import NamedSet, read_set
from submodel.prune.mask import pack_bits
from submodel.router import Decision, Router, Signals, detector, open_router
from submodel.router.languages import SPOKEN
from submodel.router.pooled import Pooler
from submodel.router.profile import fit_texts
from submodel.store import Mask, Store, open_or_create
from submodel.tasks.intervals import wilson

_SEED = 2
CODE = ("python", "java", "cpp", "javascript")
NAMES = (*CODE, "maths", "translation")
FILES = {"python": "app/main.py", "java": "src/Main.java", "cpp": "lib/main.cc", "javascript": "web/main.js"}
NAMED = (
    "I need some {language} that will {task}.",
    "Using {language}, {task}.",
    "Could you show me a method in {language} which does this: {task}?",
    "{task}. The answer should be written in {language}.",
    "Please give me a {language} solution for this: {task}",
)
TRANSLATE = (
    "How would one say this in {target}? {text}",
    "Please render the text below in {target}.\n{text}",
    "{text}\n\nGive the {target} version.",
    "I need a {target} translation of: {text}",
)


@dataclass(frozen=True)
class Request:
    """One labelled request: `kind` names its set, `name` the sub-model that should get it (None: the base)."""

    kind: str
    name: str | None
    signals: Signals
    source: str  # what it was made of


def calibration(data: Path, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """(sub-model, documents), from train splits, in the forms of calibration's own data sets."""
    for language in CODE:
        yield (
            language,
            [row["whole_func_string"] for row in shuffled(data, f"code_search_net/{language}", "train", rng)],
        )
    yield "maths", [f"{row['question']}\n{row['answer']}" for row in shuffled(data, "gsm8k/main", "train", rng)]
    pairs = [row["translation"] for row in shuffled(data, "tico19_fr_en", "train", rng)]
    yield "translation", [f"#Text: {pair['en']} #Translation: {pair['fr']}" for pair in pairs]


def requests(data: Path, limit: int, rng: random.Random) -> Iterator[Request]:
    """Labelled requests, `limit` of each kind and label."""
    for at, language in enumerate(CODE):
        functions = shuffled(data, f"code_search_net/{language}", "test", rng)
        for row in functions[:limit]:
            yield Request("code: function", language, Signals(row["whole_func_string"]), row["whole_func_string"])
        for row in functions[:limit]:
            yield Request(
                "code: piece", language, Signals(piece(row["func_code_string"], rng)), row["whole_func_string"]
            )
        for row in functions[:limit]:
            code = row["func_code_string"]
            start, stop = sorted(rng.sample(range(len(code)), 2))
            yield Request(
                "code: fill in the middle",
                language,
                Signals(code[:start], suffix=code[stop:]),
                row["whole_func_string"],
            )
        sources = shuffled(data, f"humaneval_x/{'js' if language == 'javascript' else language}", "test", rng)
        for row in sources[:limit]:
            yield Request("code: HumanEval-X head", language, Signals(row["prompt"]), row["prompt"])
        for row in functions[: limit // 4]:
            fenced = f"What is wrong here?\n```{language}\n{row['func_code_string']}\n```"
            yield Request("explicit: fence", language, Signals(fenced), row["whole_func_string"])
            yield Request(
                "explicit: file",
                language,
                Signals(row["func_code_string"], file=FILES[language]),
                row["whole_func_string"],
            )
        described = [(row, task) for row in functions if (task := sentence(row["func_documentation_string"]))]
        for row, task in described[:limit]:
            text = rng.choice(NAMED).format(language=SPOKEN[language], task=task)
            yield Request("prose, language named: docs", language, Signals(text), row["whole_func_string"])
        for row in shuffled(data, "mbpp", "test", random.Random(0))[at::4][:limit]:
            task = re.sub(r"\bpython ", "", row["text"].strip(), flags=re.I)
            named = re.sub(r"\bfunction\b", f"{SPOKEN[language]} function", task, count=1)
            named = named if named != task else f"{task.rstrip('.')} in {SPOKEN[language]}."
            yield Request("prose, language named: MBPP", language, Signals(named), row["text"])
    for kind, path, split, column in (
        ("GSM8K", "gsm8k/main", "test", "question"),
        ("MathQA", "math_qa", "test", "Problem"),
    ):
        for row in shuffled(data, path, split, rng)[:limit]:
            yield Request(f"prose: {kind}", "maths", Signals(row[column]), row[column])
    for kind, path in (("TICO-19", "tico19_fr_en"), ("PUD", "pud_fr_en")):
        for row in shuffled(data, path, "test", rng)[:limit]:
            source, target = rng.choice([("en", "French"), ("fr", "English")])
            text = rng.choice(TRANSLATE).format(target=target, text=row["translation"][source])
            yield Request(f"prose: translate {kind}", "translation", Signals(text), row["translation"]["en"])
    for row in shuffled(data, "mbpp", "test", rng)[:limit]:
        task = re.sub(r"\bpython ", "", row["text"].strip(), flags=re.I)
        yield Request("nobody's: code, no language", None, Signals(task), row["text"])
    for kind, path, split, column in (
        ("ARC", "ai2_arc/ARC-Easy", "test", "question"),
        ("CommonsenseQA", "commonsense_qa", "validation", "question"),
        ("C4", "c4", "validation", "text"),
    ):
        for row in shuffled(data, path, split, rng)[:limit]:
            text = row[column][: rng.randint(60, 800)] if kind == "C4" else row[column]
            yield Request(f"nobody's: {kind}", None, Signals(text), row[column])


def shuffled(data: Path, path: str, split: str, rng: random.Random) -> list[dict[str, Any]]:
    """The rows of a set in another order."""
    rows = read_set(NamedSet(path, path, split=split), data).rows
    rng.shuffle(rows)
    return rows


def piece(code: str, rng: random.Random) -> str:
    """A few lines of code from anywhere in a function."""
    lines = code.splitlines(keepends=True)
    return "".join(lines[rng.randrange(max(1, len(lines) - 4)) :])[: rng.randint(150, 500)]


def sentence(documentation: str) -> str | None:
    """What a function is for, in one sentence."""
    words = re.sub(r"^[\s/*#'\"!]+", "", documentation.strip(), flags=re.M)
    words = " ".join(re.split(r"\n\s*\n|@\w+|:param|\.\s", words)[0].split()).rstrip(".")
    return words[0].lower() + words[1:] if 15 <= len(words) <= 200 else None


def make_store(base: Base, data: Path, out: Path, pooler: Pooler) -> Store:
    """A store whose sub-models have one mask bit and statistics for routing."""
    store = open_or_create(
        out, {"reference": base.reference, "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    )
    for name, documents in calibration(data, random.Random(1)):
        if name not in store.names:
            mask = Mask(pack_bits(np.ones((1, 8), dtype=bool)), 8)
            store.add(name, {"none": mask}, {"created": name, "calibration": None, "method": "none"})
            fit_texts(store, pooler, name, documents[:2000])
    return store


def table(found: list[tuple[Request, Decision]]) -> list[str]:
    """Accuracy of each kind with Wilson's 95% interval, what the errors were, and accuracy of each signal."""
    lines = [f"{'kind':30} {'label':12} {'n':>4} {'right':>6}  95% interval   went to"]
    for kind, name in dict.fromkeys((request.kind, request.name) for request, _ in found):
        got = [decision for request, decision in found if (request.kind, request.name) == (kind, name)]
        hits = sum(decision.name == name for decision in got)
        low, high = wilson(hits, len(got))
        went = Counter(f"{decision.name or 'base'}" for decision in got).most_common(4)
        lines.append(
            f"{kind:30} {name or 'base':12} {len(got):4} {hits / len(got):6.3f}  {low:.3f} to {high:.3f}  "
            + ", ".join(f"{to} {count}" for to, count in went)
        )
    lines.append("")
    families = dict.fromkeys(request.kind.split(":")[0] for request, _ in found)
    for family in families:
        got = [(r, d) for r, d in found if r.kind.startswith(family)]
        hits = sum(d.name == r.name for r, d in got)
        wrong = sum(d.name is not None and d.name != r.name for r, d in got)
        low, high = wilson(hits, len(got))
        lines.append(
            f"{family:30} n {len(got):4}  right {hits / len(got):.3f} ({low:.3f} to {high:.3f}), "
            f"to a wrong sub-model {wrong / len(got):.3f}"
        )
    for signal in dict.fromkeys(decision.signal for _, decision in found):
        got = [(r, d) for r, d in found if d.signal == signal]
        hits = sum(d.name == r.name for r, d in got)
        low, high = wilson(hits, len(got))
        lines.append(f"signal {signal:23} n {len(got):4}  right {hits / len(got):.3f} ({low:.3f} to {high:.3f})")
    lines.append("")
    for least, most in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 0.97), (0.97, 1.01)):
        got = [(r, d) for r, d in found if d.scores and least <= max(d.scores.values()) < most]
        if got:
            top = [max(d.scores, key=lambda name: d.scores[name]) for _, d in got]
            right = sum(name == (r.name or "base") for name, (r, _) in zip(top, got, strict=True))
            lines.append(
                f"confidence {least:.2f} to {min(most, 1):.2f}: n {len(got):4}, likeliest right {right / len(got):.3f}"
            )
    return lines


def latency(router: Router, base: Base, wanted: list[Request]) -> list[str]:
    """Processor time of a decision and of the base's prefill of the same prompts, by turns; the detector's apart."""
    model = base.load(torch.bfloat16)
    spent: list[list[float]] = []
    with torch.inference_mode():
        for request in wanted:
            ids = base.tokenizer(request.signals.text, return_tensors="pt")["input_ids"]
            clock = [time.process_time()]
            model(input_ids=ids, logits_to_keep=1)
            clock.append(time.process_time())
            router.choose(request.signals)
            clock.append(time.process_time())
            detector.detect(request.signals.text)
            clock.append(time.process_time())
            spent.append([ids.shape[1], *np.diff(clock).tolist()])
    tokens, prefill, decision, detected = np.array(spent).T
    lines = [f"processor time, {torch.get_num_threads()} threads, prefill by transformers in bfloat16, medians"]
    for least, most in ((1, 32), (32, 96), (96, 256), (256, 1 << 30)):
        at = (tokens >= least) & (tokens < most)
        if at.sum() > 2:
            lines.append(
                f"prompts of {least} to {min(most, int(tokens.max()) + 1) - 1} tokens (n {at.sum()}): "
                f"decision {1e3 * np.median(decision[at]):.1f} ms "
                f"(90% below {1e3 * np.quantile(decision[at], 0.9):.1f}), "
                f"detector alone {1e3 * np.median(detected[at]):.1f} ms, "
                f"prefill {1e3 * np.median(prefill[at]):.1f} ms, "
                f"share {np.median(decision[at] / prefill[at]):.3f}"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("routing"))
    parser.add_argument("--limit", type=int, default=120, help="requests of each kind and label")
    parser.add_argument("--seed", type=int, default=_SEED, help="which requests are drawn")
    parser.add_argument("--apart", type=int, default=0, metavar="N", help="without those of a draw of N")
    parser.add_argument("--fresh", action="store_true", help="fit again")
    parser.add_argument("--prompts", type=int, default=80, help="prompts to take latency on; 0 for none")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    base = open_base(args.model)
    pooler = Pooler(base)
    store = make_store(base, args.data, args.out, pooler)
    router = open_router(store, base)
    assert router.activations is not None
    temperature = router.activations.discriminant.temperature
    print(f"detector: {'Magika' if detector.is_there() else 'none'}; temperature {temperature:.1f}")
    looked_at = requests(args.data, args.apart, random.Random(_SEED)) if args.apart else ()
    seen = {request.source for request in looked_at}
    wanted = [r for r in requests(args.data, args.limit, random.Random(args.seed)) if r.source not in seen]
    found = [(request, router.choose(request.signals)) for request in wanted]
    with open(args.out / "decisions.jsonl", "w") as f:
        for r, d in found:
            f.write(json.dumps({"kind": r.kind, "right": r.name, "text": r.signals.text, **d.__dict__}) + "\n")
    print("\n".join(table(found)))
    if args.prompts:
        print("\n".join(latency(router, base, random.Random(3).sample(wanted, args.prompts))))


if __name__ == "__main__":
    main()
