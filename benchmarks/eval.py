"""HumanEval end to end: us, transformers' generate at its best batch size, and lm-evaluation-harness' own HF backend.

    python -m benchmarks.eval MODEL --data-dir DIR [--limit 64] [--max-tokens 256] [--rounds 3] [--samples N]

One process, the same weights, rounds interleaved. Everybody gets the same prompts, stop strings, decoding and judge
(model-written programs run in our sandbox only), and the time goes from the first prompt to the last verdict. The
peers run the model as transformers has it, in --peer-dtype: by default what the processor multiplies fast.
The peers' batch size is the fastest of --batches on the first --tune problems (give as many as the largest batch).
Decoding is greedy; with --samples N, N texts a problem at temperature 0.8 and top-p 0.95, for which transformers is
given our own draws (its own sort the whole vocabulary for each token), the harness draws by itself.
Where texts differ, the lines after the table say at which token they part and how far apart the two tokens' logits
are: sums in another order differ in the last bit of bfloat16, and greedy decoding turns a tie into another text.
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_ALLOW_CODE_EVAL", "1")  # the harness asks; our stand-in for its code_eval runs the sandbox

import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList

from submodel.base.arithmetic import Linear, default_dtype
from submodel.calibration.sets import Rows, read_set
from submodel.report import aligned
from submodel.runtime import Loaded, load
from submodel.runtime.sampling import pick
from submodel.tasks import parse_task
from submodel.tasks.cell import Cell, Settings
from submodel.tasks.code.problem import Problem, program
from submodel.tasks.code.tables import CODE
from submodel.tasks.code.task import Sampling, code_rows, judge_of, problems_of, sampling_of, seed_of


@dataclass(frozen=True)
class Result:
    """Of each problem its texts and which of them passed; seconds from the first prompt to the last verdict."""

    texts: dict[str, list[str]]
    passed: dict[str, list[bool]]
    seconds: float


def _plain(loaded: Loaded, dtype: torch.dtype) -> Any:
    """The model as transformers runs it, with torch's own products."""
    model: Any = copy.deepcopy(loaded.model)
    linears: list[Any] = [module for module in model.modules() if isinstance(module, Linear)]
    for module in linears:
        module.__class__ = nn.Linear
    return model.to(dtype)


def _cell(loaded: Loaded, args: argparse.Namespace, out: Path, shared: dict[Any, Any]) -> Cell:
    settings = Settings(
        data_dir=Path(args.data_dir), limit=args.limit, max_tokens=args.max_tokens, samples=args.samples, ks=(1,)
    )
    task = parse_task("humaneval")
    return Cell(task, loaded, settings, out, frozenset(), lambda *_: None, print, shared)


def _ours(cell: Cell, problems: list[Problem]) -> Result:
    started = time.monotonic()
    [row] = code_rows(cell)
    seconds = time.monotonic() - started
    entries = cell.journal(row).entries
    each = {p.id: [entries[f"{p.id}#{i}"] for i in range(sampling_of(cell.settings).samples)] for p in problems}
    return Result(
        {key: [entry["text"] for entry in found] for key, found in each.items()},
        {key: [entry["status"] == "passed" for entry in found] for key, found in each.items()},
        seconds,
    )


class _Drawn(LogitsProcessor):
    """Leaves of each row's scores the token that we draw from them; a row that has ended draws nothing."""

    def __init__(self, sampling: Sampling, part: list[tuple[Problem, int]], ended: int):
        seeds = [seed_of(sampling.seed, problem.id, sample) for problem, sample in part]
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._sampling, self._ended = sampling, ended

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = torch.full_like(scores, -torch.inf)
        for row, generator in enumerate(self._generators):
            if int(input_ids[row, -1]) == self._ended:
                chosen[row, self._ended] = 0
            else:
                chosen[row, pick(scores[row], self._sampling.temperature, self._sampling.top_p, 0, generator)] = 0
        return chosen


def _transformers(cell: Cell, model: Any, problems: list[Problem], batch: int) -> Result:
    """Sorted by length, left-padded, `generate` with stop_strings, judged beside the next batch."""
    started = time.monotonic()
    judge, tokenizer, sampling = judge_of(cell), cell.loaded.tokenizer, sampling_of(cell.settings)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = {p.id: [""] * sampling.samples for p in problems}
    verdicts: dict[str, list[Any]] = {p.id: [None] * sampling.samples for p in problems}
    by_length = sorted(problems, key=lambda p: -len(tokenizer(p.prompt)["input_ids"]))
    each = [(p, i) for p in by_length for i in range(sampling.samples)]
    with ThreadPoolExecutor(os.cpu_count()) as pool, torch.inference_mode():
        for at in range(0, len(each), batch):
            part = each[at : at + batch]
            given = tokenizer([p.prompt for p, _ in part], return_tensors="pt", padding=True)
            stops = list(part[0][0].stops)
            drawn = [_Drawn(sampling, part, tokenizer.pad_token_id)] if sampling.temperature else []
            out = model.generate(  # type: ignore[operator]
                **given,
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                stop_strings=stops,
                logits_processor=LogitsProcessorList(drawn),
                tokenizer=tokenizer,
            )
            new = tokenizer.batch_decode(out[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            for (problem, i), text in zip(part, new, strict=True):
                cuts = [found for stop in stops if (found := text.find(stop)) >= 0]
                texts[problem.id][i] = text[: min(cuts)] if cuts else text
                verdicts[problem.id][i] = pool.submit(judge.judge, program(problem, texts[problem.id][i]))
        passed = {key: [verdict.result().passed for verdict in found] for key, found in verdicts.items()}
    return Result(texts, passed, time.monotonic() - started)


class _CodeEval:
    """Stands in for `evaluate.load("code_eval")`: the same answer, but the programs run in our sandbox."""

    def __init__(self, cell: Cell, problems: list[Problem]):
        self._judge = judge_of(cell)
        self._problems = {p.tests.strip(): p for p in problems}
        self.passed: dict[str, list[bool]] = {}

    def compute(self, references: list[str], predictions: list[list[str]], k: list[int]) -> Any:
        problem = self._problems.get(references[0].strip())
        if problem is None:  # the harness tries it out on a sum of its own
            return {"pass@1": 0.0}, {}
        made = [replace(program(problem, ""), source=source) for source in predictions[0]]
        self.passed[problem.id] = [self._judge.judge(one).passed for one in made]
        return {"pass@1": statistics.mean(self.passed[problem.id])}, {}


def _harness(cell: Cell, plain: Any, rows: Rows, problems: list[Problem], batch: int) -> Result:
    """lm-evaluation-harness' own `humaneval` task and HF backend over the same rows."""
    import datasets
    import evaluate
    import lm_eval
    from lm_eval import evaluator
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    judged, sampling = _CodeEval(cell, problems), sampling_of(cell.settings)
    evaluate.load = lambda *_: judged
    config = load_yaml(Path(lm_eval.__file__).parent / "tasks/humaneval/humaneval.yaml")
    config["generation_kwargs"]["max_gen_toks"] = sampling.max_tokens
    if sampling.temperature:
        config["repeats"] = sampling.samples
        drawing = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        config["generation_kwargs"] |= drawing
    found = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows.rows)})
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: found})
    started = time.monotonic()
    model: Any = HFLM(pretrained=plain, tokenizer=cell.loaded.tokenizer, batch_size=batch)  # type: ignore[arg-type]
    results: Any = evaluator.evaluate(
        model, {"humaneval": task}, log_samples=True, bootstrap_iters=0, confirm_run_unsafe_code=True
    )
    seconds = time.monotonic() - started
    return Result({s["doc"]["task_id"]: s["resps"][0] for s in results["samples"]["humaneval"]}, judged.passed, seconds)


def _parting(loaded: Loaded, prompt: str, ours: str, theirs: str) -> str:
    """Where two texts part, and how near each other the two tokens were."""
    tokenizer: Any = loaded.tokenizer
    a, b = (tokenizer(prompt + text)["input_ids"] for text in (ours, theirs))
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    if at is None:
        return "one text goes on where the other ends"
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([a[:at]])).logits[0, -1].float()
    x, y = float(logits[a[at]]), float(logits[b[at]])
    ulp = 2.0 ** (int(torch.tensor(max(abs(x), abs(y))).log2().floor()) - 7)
    new = at - len(tokenizer(prompt)["input_ids"])
    return (
        f"token {new}: {tokenizer.decode([a[at]])!r} {x:.3f} against {tokenizer.decode([b[at]])!r} {y:.3f}: "
        f"{abs(x - y) / ulp:.0f} units in the last place of bfloat16"
    )


def _equal(one: Result, other: Result) -> int:
    """How many texts are the same in both."""
    return sum(a == b for key in one.texts for a, b in zip(one.texts[key], other.texts[key], strict=True))


def _fastest(run: Callable[[int], Result], batches: list[int]) -> int:
    return min(batches, key=lambda batch: run(batch).seconds) if len(batches) > 1 else batches[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--peer-dtype", choices=["bfloat16", "float32"])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--tune", type=int, default=64)
    args = parser.parse_args()
    loaded = load(args.model)
    dtype = getattr(torch, args.peer_dtype) if args.peer_dtype else default_dtype("cpu")
    plain = _plain(loaded, dtype)
    full = read_set(CODE["humaneval"].sets["test"], Path(args.data_dir))
    rows = Rows(full.source, full.rows[: args.limit], full.sha256)
    problems = problems_of("humaneval", {"test": rows})
    shared: dict[Any, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = _cell(loaded, args, Path(folder) / "tune.jsonl", shared)
        few = Rows(full.source, rows.rows[: args.tune], full.sha256)
        batch = {
            "transformers": _fastest(
                lambda size: _transformers(first, plain, problems[: args.tune], size),
                args.batches,
            ),
            "lm-eval": _fastest(lambda size: _harness(first, plain, few, problems, size), args.batches),
        }
        found: dict[str, list[Result]] = {"submodel": [], "transformers": [], "lm-eval": []}
        for turn in range(args.rounds):
            cell = _cell(loaded, args, Path(folder) / f"{turn}.jsonl", shared)
            found["submodel"].append(_ours(cell, problems))
            found["transformers"].append(_transformers(cell, plain, problems, batch["transformers"]))
            found["lm-eval"].append(_harness(cell, plain, rows, problems, batch["lm-eval"]))
    ours, total = found["submodel"][0], len(problems) * args.samples
    lines = [["", "batch", "seconds [min, max]", "texts/s", "submodel is", "pass@1", "texts equal to ours"]]
    for name, results in found.items():
        seconds = [r.seconds for r in results]
        ratios = sorted(r.seconds / o.seconds for r, o in zip(results, found["submodel"], strict=True))
        last = results[-1]
        lines.append(
            [
                name,
                str(batch.get(name, "slots")),
                f"{statistics.median(seconds):.1f} [{min(seconds):.1f}, {max(seconds):.1f}]",
                f"{total / statistics.median(seconds):.2f}",
                f"{statistics.median(ratios):.2f}x [{ratios[0]:.2f}, {ratios[-1]:.2f}]",
                f"{sum(map(sum, last.passed.values()))} of {total}",
                "-" if args.samples > 1 and name == "lm-eval" else f"{_equal(last, ours)} of {total}",
            ]
        )
    print(
        f"{args.model}, {len(problems)} problems x {args.samples}, {args.max_tokens} tokens, "
        f"{torch.get_num_threads()} threads; ours in {loaded.model.dtype}, theirs in {dtype}"
    )
    print(aligned(lines))
    if args.samples > 1:
        return
    for name in ("transformers", "lm-eval"):
        theirs = found[name][-1]
        for problem in problems:
            [mine], [other] = ours.texts[problem.id], theirs.texts[problem.id]
            if mine != other:
                verdicts = f"{ours.passed[problem.id][0]} / {theirs.passed[problem.id][0]}"
                print(f"{problem.id}: {name}: passed {verdicts}: {_parting(loaded, problem.prompt, mine, other)}")


if __name__ == "__main__":
    main()
