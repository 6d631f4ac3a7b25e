"""Code tasks: prompts -> continuations -> programs -> verdicts -> pass@k. A journal keeps every verdict."""

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from submodel.calibration.sets import Rows
from submodel.errors import SubmodelError
from submodel.runtime import Continuation, Loaded, Request, generate_batch
from submodel.runtime.infill import Infill
from submodel.tasks.cell import Cell, Settings, filled
from submodel.tasks.chat import refuse_without_template, user_turn
from submodel.tasks.code.passk import pass_at_k
from submodel.tasks.code.problem import Problem, program, question, text_of_answer
from submodel.tasks.code.tables import CODE
from submodel.tasks.intervals import mean_interval
from submodel.tasks.journal import Journal
from submodel.tasks.judge import Judge, missing_toolchain
from submodel.tasks.rows import Row
from submodel.tasks.sandbox import open_sandbox

MAX_TOKENS = 512


@dataclass(frozen=True)
class Sampling:
    """How the continuations of a problem are drawn; `ks` are the k of pass@k; `infill`: they are middles."""

    samples: int
    ks: tuple[int, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    chat: bool
    infill: bool = False

    def as_settings(self) -> dict[str, Any]:
        """What goes into the row."""
        return {
            "samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "prompt": "chat" if self.chat else "fill in the middle" if self.infill else "completion",
        }


def sampling_of(settings: Settings) -> Sampling:
    """What was asked for, with defaults: one greedy sample, or several at the paper's T 0.8 and top-p 0.95.

    Raises SubmodelError for a k above the number of samples and for several greedy samples.
    """
    samples = settings.samples or max(settings.ks, default=1)
    ks = settings.ks or tuple(k for k in (1, 10, 100) if k <= samples)
    temperature = settings.temperature if settings.temperature is not None else 0.0 if samples == 1 else 0.8
    if max(ks) > samples or min(ks) < 1:
        raise SubmodelError(f"pass@{max(ks)} of {samples} samples: give --samples {max(ks)} or more, and k from 1")
    if samples > 1 and temperature == 0:
        raise SubmodelError(f"{samples} samples at temperature 0 are all the same: give --temperature 0.8")
    top_p = settings.top_p if settings.top_p is not None else 0.95 if temperature else 1.0
    return Sampling(
        samples, ks, temperature, top_p, settings.max_tokens or MAX_TOKENS, settings.seed, bool(settings.chat)
    )


def code_rows(cell: Cell) -> Iterator[Row]:
    """A code task: a row a k; none, and a line that says why, where the language's tools are missing."""
    name, settings = cell.task.name, cell.settings
    task = CODE[name]
    if missing := missing_toolchain(task.language):
        cell.say(f"{name}: skipped: {missing}")
        return
    sampling = replace(sampling_of(settings), infill=task.infills)
    infill = _infill_of(cell.loaded, name, sampling.chat) if task.infills else None
    if infill is None and sampling.chat:
        refuse_without_template(cell.loaded)
    sets = {role: cell.read(source) for role, source in task.sets.items()}
    problems = problems_of(name, sets)[: settings.limit]
    data = {
        "name": name,
        "split": sets["test"].source.split,
        "rows": len(problems),
        "sha256": "+".join(source.sha256[:16] for source in sets.values()),
    }
    rows = [cell.row(f"pass@{k}", data, sampling.as_settings()) for k in sampling.ks]
    if all(cell.is_done(row) for row in rows):
        return
    started = time.monotonic()
    journal = cell.journal(rows[0])
    _solve(cell, problems, sampling, journal, infill)
    passed = np.array(
        [
            sum(journal.entries[_key(problem, i)]["status"] == "passed" for i in range(sampling.samples))
            for problem in problems
        ]
    )
    for row, k in zip(rows, sampling.ks, strict=True):
        values = np.array([pass_at_k(sampling.samples, int(count), k) for count in passed])
        if not cell.is_done(row):
            yield filled(row, float(values.mean()), mean_interval(values), len(problems), started, values)


def problems_of(name: str, sets: dict[str, Rows]) -> list[Problem]:
    """The problems of a task. Raises SubmodelError when the data lacks a column."""
    try:
        return CODE[name].problems({role: source.rows for role, source in sets.items()})
    except KeyError as error:
        raise SubmodelError(f"{name}: its data has no column {error}: give the set in its hub columns") from error


def judge_of(cell: Cell) -> Judge:
    """One sandbox and one cache of compiled programs for the whole evaluation."""
    if "judge" not in cell.shared:
        sandbox = open_sandbox(unsafe=cell.settings.unsafe_code)
        if sandbox.name == "none":
            cell.say("model-written programs run WITHOUT a sandbox, as asked for")
        cell.shared["judge"] = Judge(sandbox)
    return cell.shared["judge"]


def _solve(cell: Cell, problems: list[Problem], sampling: Sampling, journal: Journal, infill: Infill | None) -> None:
    """Generate and judge what the journal lacks; a verdict enters it as soon as it is there."""
    judge = judge_of(cell)
    open_samples = {p.id: [i for i in range(sampling.samples) if _key(p, i) not in journal.entries] for p in problems}
    by_id = {p.id: p for p in problems if open_samples[p.id]}
    total = len(problems) * sampling.samples
    done = total - sum(map(len, open_samples.values()))
    what = f"{cell.loaded.name} on {cell.task.name}"
    cell.progress(what, done, total)
    if not by_id:
        return
    requests = [_request(cell.loaded, p, open_samples[p.id], sampling, infill) for p in by_id.values()]
    futures: list[Future[None]] = []

    def settle(continuation: Continuation) -> None:
        problem, index = by_id[continuation.key], open_samples[continuation.key][continuation.sample]
        text, ended = continuation.text, continuation.finish == "stop"
        if sampling.chat:
            text, ended = text_of_answer(problem, text)
        # a text that did not reach its end is no program: its braces stay open
        verdict = judge.judge(program(problem, text, closing=ended))
        entry = {"status": verdict.status, "detail": verdict.detail, "finish": continuation.finish, "text": text}
        journal.add(_key(problem, index), {**entry, "tokens": len(continuation.tokens)})

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for continuation in generate_batch(cell.loaded, requests, slots=cell.settings.slots):
                futures.append(pool.submit(settle, continuation))
                cell.progress(what, done + sum(future.done() for future in futures), total)
            for count, future in enumerate(as_completed(futures), start=1):
                future.result()
                cell.progress(what, done + count, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _infill_of(loaded: Loaded, name: str, chat: bool) -> Infill:
    """What writes a task's gaps. Raises SubmodelError for a chat, or a model that does not fill in."""
    if chat:
        raise SubmodelError(f"{name}: fills in the middle, which a chat does not: leave out --chat")
    infill = Infill(loaded.tokenizer)
    if not infill:
        raise SubmodelError(f"{name}: {loaded.reference} has no fill-in-the-middle tokens: give tasks that continue")
    return infill


def _request(
    loaded: Loaded, problem: Problem, samples: list[int], sampling: Sampling, infill: Infill | None
) -> Request:
    if infill:
        ids = infill.around(problem.prompt, problem.after)
    else:
        ids = user_turn(loaded, question(problem)) if sampling.chat else loaded.tokenizer(problem.prompt)["input_ids"]
    return Request(
        key=problem.id,
        prompt=tuple(ids),
        max_tokens=sampling.max_tokens,
        stops=() if sampling.chat else problem.stops,
        seeds=tuple(seed_of(sampling.seed, problem.id, i) for i in samples),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        ends=infill.ends if infill else frozenset(),
    )


def seed_of(seed: int, problem: str, sample: int) -> int:
    """A seed for each sample of each problem, whichever others run beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {problem} {sample}".encode()).digest()[:6], "big")


def _key(problem: Problem, sample: int) -> str:
    return f"{problem.id}#{sample}"
