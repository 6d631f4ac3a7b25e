"""Common-sense reasoning and grade-school mathematics, by lm-evaluation-harness's own task definitions.

`csr` is the mean accuracy over six sets, zero-shot: the figure that papers on pruning print. Each set is a task of its
own too. `gsm8k` is lm_eval's `gsm8k_cot`: eight worked examples, then the question.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from submodel.calibration.sets import NamedSet
from submodel.errors import SubmodelError
from submodel.tasks.cell import Cell, filled
from submodel.tasks.intervals import mean_interval
from submodel.tasks.rows import Row

SETS = {
    # the validation split is one and the same in every winogrande_* configuration
    "winogrande": NamedSet("winogrande/winogrande_m", "allenai/winogrande", "winogrande_xl", "validation"),
    "boolq": NamedSet("boolq", "aps/super_glue", "boolq", "validation"),
    "arc_easy": NamedSet("ai2_arc/ARC-Easy", "allenai/ai2_arc", "ARC-Easy"),
    "arc_challenge": NamedSet("ai2_arc/ARC-Challenge", "allenai/ai2_arc", "ARC-Challenge"),
    "openbookqa": NamedSet("openbookqa/main", "allenai/openbookqa", "main"),
    "hellaswag": NamedSet("hellaswag", "Rowan/hellaswag", None, "validation"),
}
GSM8K = NamedSet("gsm8k/main", "openai/gsm8k", "main")
PAPER = "exact_match,paper-extract"
_RESAMPLES = 10_000


@dataclass(frozen=True)
class _Ask:
    """A task of lm_eval over the documents asked for, and the row of each of its metrics, to be filled."""

    name: str
    documents: list[dict[str, Any]]
    rows: list[Row]
    generation: dict[str, Any] | None = None


def csr_rows(cell: Cell) -> Iterator[Row]:
    """The task `csr`: the rows of the six sets, and the mean of their accuracies (each set weighs the same).

    The mean's interval is a bootstrap over the problems within every set.
    """
    asks = [_ask_set(cell, name) for name in SETS]
    total = sum(len(ask.documents) for ask in asks)
    data = {"name": "csr", "rows": total, "sets": {ask.name: ask.rows[0].data for ask in asks}}
    mean = cell.row("acc", data, asks[0].rows[0].settings | {"definition": "mean of the sets"})
    if all(cell.is_done(row) for row in [mean, *(row for ask in asks for row in ask.rows)]):
        return
    started, before = time.monotonic(), 0
    accuracies = []
    for ask in asks:
        values_of = yield from _scored(cell, ask, "csr", before, total)
        before += len(ask.documents)
        accuracies.append(values_of["acc"])
    if not cell.is_done(mean):
        value = float(np.mean([values.mean() for values in accuracies]))
        yield filled(mean, value, mean_of_sets_interval(accuracies), total, started)


def set_rows(cell: Cell) -> Iterator[Row]:
    """One set of SETS by the task's name: accuracy, and acc_norm where lm_eval defines it."""
    ask = _ask_set(cell, cell.task.name)
    if not all(cell.is_done(row) for row in ask.rows):
        yield from _scored(cell, ask, ask.name, 0, len(ask.documents))


def gsm8k_rows(cell: Cell) -> Iterator[Row]:
    """The task `gsm8k`: exact match by both of lm_eval's filters and by the paper's extraction, of the same texts.

    Greedy unless the settings have a temperature; one continuation a problem whatever `samples` is.
    """
    ask = _ask_gsm8k(cell)
    if not all(cell.is_done(row) for row in ask.rows):
        yield from _scored(cell, ask, "gsm8k", 0, len(ask.documents))


HARNESS: dict[str, Callable[[Cell], Iterator[Row]]] = {
    "csr": csr_rows,
    **dict.fromkeys(SETS, set_rows),
    "gsm8k": gsm8k_rows,
}


def paper_answer(text: str) -> float | None:
    """The paper's reading of a solution: the first number after "The answer is", else the last number."""
    _, has_answer, after = text.partition("The answer is")
    for part, at in ((after if has_answer else "", 0), (text, -1)):
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+", part)
        if numbers:
            return float(numbers[at].replace(",", ""))
    return None


def mean_of_sets_interval(sets: list[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of the mean of the sets' rates; `sets`: 0 or 1 of every problem.

    Problems are drawn within each set: of n zeros and ones, the sum of a resample is binomial.
    """
    rng = np.random.default_rng(seed)
    draws = [rng.binomial(len(values), values.mean(), size=_RESAMPLES) / len(values) for values in sets]
    low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
    return float(low), float(high)


def _harness() -> Any:
    """The bridge, imported when a task needs it: lm_eval is an extra."""
    try:
        from submodel.tasks import harness_tasks
    except ImportError as error:
        raise SubmodelError(f"lm-evaluation-harness cannot be imported ({error}): install submodel[eval]") from error
    return harness_tasks


def _ask_set(cell: Cell, name: str) -> _Ask:
    config = _harness().task_config(name)
    settings = {"fewshot": 0, "chat": cell.settings.chat, **_definition(config)}
    return _ask(cell, name, SETS[name], name, [entry["metric"] for entry in config["metric_list"]], settings)


def _ask_gsm8k(cell: Cell) -> _Ask:
    config, given = _harness().task_config("gsm8k_cot"), cell.settings
    generation: dict[str, Any] = {"max_gen_toks": 256 if given.max_tokens is None else given.max_tokens}
    settings = {"fewshot": config["num_fewshot"], "chat": given.chat, **_definition(config)}
    settings |= {"max_tokens": generation["max_gen_toks"], "temperature": given.temperature or 0.0}
    if given.temperature:
        generation |= {"do_sample": True, "temperature": given.temperature, "top_p": given.top_p or 1.0}
        settings |= {"top_p": generation["top_p"], "seed": given.seed}
    metrics = [f"exact_match,{entry['name']}" for entry in config["filter_list"]]
    return replace(_ask(cell, "gsm8k_cot", GSM8K, "gsm8k", [*metrics, PAPER], settings), generation=generation)


def _definition(config: dict[str, Any]) -> dict[str, Any]:
    return {"lm_eval": version("lm_eval"), "definition": f"{config['task']} {config['metadata']['version']}"}


def _ask(cell: Cell, name: str, source: NamedSet, task: str, metrics: list[str], settings: dict[str, Any]) -> _Ask:
    rows = cell.read(source)
    documents = rows.rows[: cell.settings.limit]
    origin = source.path if cell.settings.data_dir else source.hub
    data = {"name": origin, "split": source.split, "rows": len(documents), "of": len(rows.rows), "sha256": rows.sha256}
    if name == "boolq":  # lm_eval takes SuperGLUE's columns, files may have those of google/boolq
        documents = [{"label": int(d["answer"]), **d} if "answer" in d else d for d in documents]
    filling = [replace(cell.row(metric, data, settings), task=task) for metric in metrics]
    return _Ask(name, documents, filling)


def _scored(cell: Cell, ask: _Ask, shown: str, before: int, total: int) -> Iterator[Row]:
    """Yield the rows that are not there yet; the generator's value is each metric's values over the documents."""
    harness, settings, started = _harness(), cell.settings, time.monotonic()
    task = harness.build_task(ask.name, ask.documents, ask.generation)
    model = harness.HarnessModel(cell.loaded, slots=settings.slots, seed=settings.seed)
    scores, answers = harness.run_task(
        task,
        model,
        cell.journal(ask.rows[0]),
        chat=settings.chat,
        progress=lambda done: cell.progress(f"{cell.loaded.name} on {shown}", before + done, total),
    )
    if ask.generation:
        for score, (text,), document in zip(scores, answers, ask.documents, strict=True):
            gold = paper_answer(document["answer"].split("####")[-1])
            score[PAPER] = float(gold is not None and paper_answer(text) == gold)
    values_of = {row.metric: np.array([score[row.metric] for score in scores]) for row in ask.rows}
    for row in ask.rows:
        if not cell.is_done(row):
            values = values_of[row.metric]
            yield filled(row, float(values.mean()), mean_interval(values), len(values), started, values)
    return values_of
