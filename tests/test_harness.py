"""lm_eval's tasks: every answer against lm_eval's own HFLM, resuming, the local files, the mean of the sets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.calibration.sets import NamedSet
from submodel.errors import SubmodelError
from submodel.runtime import Loaded, load
from submodel.tasks import harness, likelihood
from submodel.tasks.cell import Cell, Settings, Task
from submodel.tasks.rows import Row
from tests import tiny

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an extra: submodel[eval]")

from submodel.tasks import harness_tasks  # noqa: E402  (after the skip)

WORDS = ["river", "stone", "the old man", "walks", "a green lamp", "because", "Maria", "quickly", "seven", "über"]


def _choices(rng: np.random.Generator, count: int) -> list[str]:
    return [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(count)]


def _text(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


def _winogrande(rng: np.random.Generator, at: int) -> dict[str, Any]:
    sentence = f"{_text(rng, 4)} _ {_text(rng, 3)}."
    return {"sentence": sentence, "option1": "Ann", "option2": "Marie", "answer": str(1 + at % 2)}


def _boolq(rng: np.random.Generator, at: int) -> dict[str, Any]:
    return {"question": _text(rng, 4), "answer": at % 3 == 0, "passage": _text(rng, 12)}


def _arc(rng: np.random.Generator, at: int) -> dict[str, Any]:
    labels = "ABCDE"[: 3 + at % 3]
    choices = {"text": _choices(rng, len(labels)), "label": list(labels)}
    return {"id": str(at), "question": _text(rng, 6) + "?", "choices": choices, "answerKey": labels[at % len(labels)]}


def _openbookqa(rng: np.random.Generator, at: int) -> dict[str, Any]:
    row = _arc(rng, 4 * at + 1)
    return {"id": row["id"], "question_stem": row["question"], "choices": row["choices"], "answerKey": "B"}


def _hellaswag(rng: np.random.Generator, at: int) -> dict[str, Any]:
    return {
        "ind": at,
        "activity_label": "Walking",
        "ctx_a": _text(rng, 5) + " [header]",
        "ctx_b": "the lamp",
        "endings": _choices(rng, 4),
        "label": str(at % 4),
    }


def _gsm8k(rng: np.random.Generator, at: int) -> dict[str, Any]:
    return {"question": _text(rng, 8), "answer": f"It is <<{at}+1={at + 1}>>.\n#### 1,{at:03d}"}


MAKERS: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "winogrande": _winogrande,
    "boolq": _boolq,
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "openbookqa": _openbookqa,
    "hellaswag": _hellaswag,
}


def _write(folder: Path, source: NamedSet, rows: list[dict[str, Any]]) -> None:
    file = folder / source.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven small sets in their hub columns."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, make) in enumerate(MAKERS.items()):
        rng = np.random.default_rng(seed)
        _write(folder, harness.SETS[name], [make(rng, at) for at in range(9)])
    rng = np.random.default_rng(99)
    _write(folder, harness.GSM8K, [_gsm8k(rng, at) for at in range(4)])
    return folder


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The tiny LLaMA with positions enough for eight worked examples in bytes."""
    folder = tiny.save("llama", tmp_path_factory.mktemp("models") / "long")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return load(str(folder))


def _cell(loaded: Loaded, task: str, out: Path, data_dir: Path | None, **changes: Any) -> Cell:
    progress = changes.pop("progress", lambda what, done, total: None)
    done = frozenset(changes.pop("done", ()))
    settings = Settings(data_dir=data_dir, **changes)
    return Cell(Task(task), loaded, settings, out, done, progress, lambda line: None)


def _hflm(loaded: Loaded, **options: Any) -> Any:
    from lm_eval.models import huggingface

    made: Any = huggingface.HFLM
    return made(pretrained=loaded.model, tokenizer=loaded.tokenizer, backend="causal", **options)


def _theirs(loaded: Loaded, task: Any, **options: Any) -> Any:
    """lm_eval's own evaluation by its own model class; a sample is a document under one filter."""
    from lm_eval.evaluator import evaluate

    model = _hflm(loaded, **options)
    found = evaluate(model, {"tasks": {"task": task}}, log_samples=True, bootstrap_iters=0)
    assert found is not None
    return found


@pytest.mark.parametrize("name", harness.SETS)
def test_every_choice_is_scored_as_by_hflm(name: str, loaded: Loaded, data_dir: Path, tmp_path: Path):
    cell = _cell(loaded, name, tmp_path / "rows.jsonl", data_dir)
    rows = list(harness.HARNESS[name](cell))
    ask = harness._ask_set(cell, name)
    found = _theirs(loaded, harness_tasks.build_task(name, ask.documents), batch_size=4)
    theirs = {sample["doc_id"]: sample["resps"] for sample in found["samples"]["task"]}
    ours = cell.journal(rows[0]).entries
    assert len(ours) == len(theirs) == 9
    for doc, answers in theirs.items():
        for (value, greedy), [(expected, expected_greedy)] in zip(ours[str(doc)], answers, strict=True):
            assert value == pytest.approx(expected, abs=1e-4)
            assert greedy == expected_greedy
    assert [row.metric for row in rows] == [m for m in ("acc", "acc_norm") if f"{m},none" in found["results"]["task"]]
    for row in rows:
        assert row.value == found["results"]["task"][f"{row.metric},none"]
        assert row.n == 9 and row.low <= row.value <= row.high
        assert row.data["split"] == harness.SETS[name].split and row.data["rows"] == 9 and len(row.data["sha256"]) == 64


def test_greedy_continuations_are_seen(loaded: Loaded):
    context = list(b"the river ")
    with torch.no_grad():
        best = int(loaded.model(torch.tensor([context])).logits[0, -1].argmax())
    pairs = [(context, [best]), (context, [best ^ 1])]
    found = likelihood.loglikelihoods(loaded.model, pairs, 64, lambda index, answer: None)
    assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_shared_beginnings_change_nothing(family: str):
    """Batches over shared keys and values against one pass a request, for every family."""
    model = tiny.build(family)
    rng = np.random.default_rng(0)
    pairs = []
    for length in (20, 21, 50, 3, 20):
        context = rng.integers(256, size=length).tolist()
        pairs += [(context, rng.integers(256, size=size).tolist()) for size in (1, 4, 7)]
    pairs += [([*pairs[-1][0], option], [1, 2, 3]) for option in (5, 6)]  # contexts that part at their end
    found = likelihood.loglikelihoods(model, pairs, 40, lambda index, answer: None)
    with torch.no_grad():
        for (context, targets), (value, greedy) in zip(pairs, found, strict=True):
            ids = torch.tensor([[*context, *targets][-41:]])
            logs = model(ids).logits[0, -len(targets) - 1 : -1].log_softmax(-1)
            assert value == pytest.approx(float(logs[range(len(targets)), targets].sum()), abs=1e-4)
            assert greedy == (logs.argmax(-1).tolist() == targets)


def test_rolling_loglikelihood_is_that_of_hflm(loaded: Loaded):
    from lm_eval.api.instance import Instance

    texts = ["the old man walks", "river " * 40]
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    model = harness_tasks.HarnessModel(loaded)
    theirs = _hflm(loaded, batch_size=2)
    assert model.loglikelihood_rolling(requests) == pytest.approx(theirs.loglikelihood_rolling(requests), abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
def test_texts_are_those_of_hflm(family: str, tmp_path: Path):
    """Stop strings, and prompts cut from the left to leave room in 128 positions."""
    from lm_eval.api.instance import Instance

    short = load(str(tiny.save(family, tmp_path / family)))
    model = harness_tasks.HarnessModel(short)
    theirs = _hflm(short, batch_size=1)
    rng = np.random.default_rng(0)
    prompts = [_text(rng, words) for words in (1, 3, 12, 40)]

    def asked(until: list[str]) -> list[Instance]:
        options = {"until": until, "max_gen_toks": 40, "do_sample": False}
        return [Instance("generate_until", {}, (prompt, dict(options)), 0) for prompt in prompts]

    whole = model.generate_until(asked([]))
    assert whole == theirs.generate_until(asked([]))
    stops = sorted({text[len(text) // 2 :][:2] for text in whole if len(text) > 4})
    cut = model.generate_until(asked(stops))
    assert cut == theirs.generate_until(asked(stops))
    assert cut != whole


def test_gsm8k_rows_are_those_of_hflm(loaded: Loaded, data_dir: Path, tmp_path: Path):
    cell = _cell(loaded, "gsm8k", tmp_path / "rows.jsonl", data_dir, max_tokens=12, limit=2)
    rows = list(harness.gsm8k_rows(cell))
    ask = harness._ask_gsm8k(cell)
    found = _theirs(loaded, harness_tasks.build_task("gsm8k_cot", ask.documents, ask.generation), batch_size=1)
    prompts = {sample["arguments"][0][0] for sample in found["samples"]["task"]}
    assert all(prompt.count("The answer is") == 8 for prompt in prompts) and len(prompts) == 2
    theirs = {sample["doc_id"]: sample["resps"][0][0] for sample in found["samples"]["task"]}
    assert {int(doc): text for doc, (text,) in cell.journal(rows[0]).entries.items()} == theirs
    metrics = {row.metric: row.value for row in rows}
    assert set(metrics) == {"exact_match,strict-match", "exact_match,flexible-extract", harness.PAPER}
    for metric in set(metrics) - {harness.PAPER}:
        assert metrics[metric] == found["results"]["task"][metric]


def test_gsm8k_scores_what_was_written(loaded: Loaded, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The three readings of one text; gold answers are 1,000 to 1,003."""
    texts = ["So 5. The answer is 1,000.", "It is 1001", "The answer is 7. No: 1,002", "The answer is: none. 1003 9"]

    def written(self: Any, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        for index, text in enumerate(texts):
            self.finished(index, text)
        return texts

    monkeypatch.setattr(harness_tasks.HarnessModel, "generate_until", written)
    rows = {row.metric: row for row in harness.gsm8k_rows(_cell(loaded, "gsm8k", tmp_path / "rows.jsonl", data_dir))}
    assert rows["exact_match,strict-match"].value == 1 / 4
    assert rows["exact_match,flexible-extract"].value == 3 / 4
    assert rows[harness.PAPER].value == 3 / 4


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 + 6 is 11. The answer is 1,234.50. Then 8", 1234.5),
        ("first 5, then -12", -12),
        ("The answer is unknown, maybe 3 or 4", 3),
        ("It was 3. The answer is unclear", 3),
        ("none", None),
    ],
)
def test_paper_answer(text: str, answer: float | None):
    assert harness.paper_answer(text) == answer


def test_csr_is_the_mean_of_six_sets(loaded: Loaded, data_dir: Path, tmp_path: Path):
    shown = []
    out = tmp_path / "rows.jsonl"
    cell = _cell(loaded, "csr", out, data_dir, limit=5, progress=lambda *args: shown.append(args))
    rows = list(harness.csr_rows(cell))
    accuracies = [row.value for row in rows if row.metric == "acc" and row.task != "csr"]
    assert len(accuracies) == 6 and [row.task for row in rows[:-1]] != ["csr"] * len(rows[:-1])
    mean = rows[-1]
    assert mean.task == "csr" and mean.n == 30
    assert mean.value == pytest.approx(np.mean(accuracies))
    assert mean.low < mean.value < mean.high
    assert max(done for _, done, _ in shown) == 30 and {total for *_, total in shown} == {30}
    # a set measured as part of csr is not measured again, nor is any of it when all is there
    keys = [row.key for row in rows]
    assert list(harness.set_rows(_cell(loaded, "arc_easy", out, data_dir, limit=5, done=keys))) == []
    assert list(harness.csr_rows(_cell(loaded, "csr", out, data_dir, limit=5, done=keys))) == []


def test_interval_of_a_mean_of_sets():
    """Against the plain bootstrap, which draws every problem."""
    rng = np.random.default_rng(1)
    sets = [(rng.random(n) < p).astype(float) for n, p in ((40, 0.3), (200, 0.6))]
    draws = [np.mean([rng.choice(values, len(values)).mean() for values in sets]) for _ in range(4000)]
    assert harness.mean_of_sets_interval(sets) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("task", ["hellaswag", "gsm8k"])
def test_resumes_at_the_problem(
    task: str, loaded: Loaded, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is stopped midway and started again asks the model nothing twice, and gets the same rows."""
    options: dict[str, Any] = {"max_tokens": 8, "slots": 1} if task == "gsm8k" else {}
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one worker: what is done when it stops is known
    monkeypatch.setitem(likelihood._BATCH_TOKENS, "cpu", 1)
    whole = list(harness.HARNESS[task](_cell(loaded, task, tmp_path / "whole.jsonl", data_dir, **options)))

    def kill(what: str, done: int, total: int) -> None:
        if done == 2:
            raise _Killed

    out = tmp_path / "rows.jsonl"
    with pytest.raises(_Killed):
        list(harness.HARNESS[task](_cell(loaded, task, out, data_dir, progress=kill, **options)))
    [journal] = out.with_suffix(".parts").iterdir()
    before = journal.read_text().splitlines()
    assert 2 <= len(before) < whole[0].n
    asked = []
    method = "generate_until" if task == "gsm8k" else "loglikelihood"
    run = getattr(harness_tasks.HarnessModel, method)
    monkeypatch.setattr(
        harness_tasks.HarnessModel, method, lambda self, requests: asked.extend(requests) or run(self, requests)
    )
    again = list(harness.HARNESS[task](_cell(loaded, task, out, data_dir, **options)))
    assert {r.doc_id for r in asked}.isdisjoint(int(json.loads(line)["key"]) for line in before)
    assert journal.read_text().splitlines()[: len(before)] == before
    assert [_measured(row) for row in again] == [_measured(row) for row in whole]
    # a larger limit goes on where a smaller one ended
    asked.clear()
    list(harness.HARNESS[task](_cell(loaded, task, out, data_dir, limit=3, **options)))
    assert asked == []


def _measured(row: Row) -> tuple[str, float, float, float]:
    return row.metric, row.value, row.low, row.high


def test_sampling_is_seeded_by_problem(loaded: Loaded, data_dir: Path, tmp_path: Path):
    def texts(out: str, **options: Any) -> dict[str, Any]:
        settings = {"max_tokens": 8, "temperature": 0.9, "top_p": 0.9, **options}
        cell = _cell(loaded, "gsm8k", tmp_path / out, data_dir, **settings)
        rows = list(harness.gsm8k_rows(cell))
        assert rows[0].settings["temperature"] == 0.9 and rows[0].settings["seed"] == options.get("seed", 0)
        return cell.journal(rows[0]).entries

    first = texts("a.jsonl")
    assert texts("b.jsonl") == first
    assert texts("c.jsonl", seed=7) != first
    assert texts("d.jsonl", limit=2) == {doc: first[doc] for doc in ("0", "1")}


def test_prompts_through_the_chat_template(loaded: Loaded, data_dir: Path, tmp_path: Path):
    cell = _cell(loaded, "arc_easy", tmp_path / "rows.jsonl", data_dir, chat=True)
    with pytest.raises(SubmodelError, match="no chat template"):
        list(harness.set_rows(cell))
    loaded.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    try:
        assert [row.settings["chat"] for row in harness.set_rows(cell)] == [True, True]
    finally:
        loaded.tokenizer.chat_template = None


def test_bad_data_is_one_clear_line(loaded: Loaded, data_dir: Path, tmp_path: Path):
    with pytest.raises(SubmodelError, match="no such file"):
        list(harness.set_rows(_cell(loaded, "boolq", tmp_path / "rows.jsonl", tmp_path)))
    _write(tmp_path, harness.SETS["boolq"], [{"question": "a", "other": "b"}])
    with pytest.raises(SubmodelError, match="columns of aps/super_glue"):
        list(harness.set_rows(_cell(loaded, "boolq", tmp_path / "rows.jsonl", tmp_path)))
    with pytest.raises(SubmodelError, match="--max-tokens"):
        list(harness.gsm8k_rows(_cell(loaded, "gsm8k", tmp_path / "rows.jsonl", data_dir, max_tokens=5000)))


def test_refuses_what_it_was_calibrated_on(loaded: Loaded, data_dir: Path, tmp_path: Path):
    source = harness.SETS["openbookqa"]
    calibration = {"path": str(data_dir / source.file), "split": "all", "rows": {}}
    pruned = Loaded(
        "s@a", loaded.base, loaded.model, {"name": "a", "masks": {"sha256": "0"}, "calibration": calibration}
    )
    with pytest.raises(SubmodelError, match="calibrated on it"):
        list(harness.set_rows(_cell(pruned, "openbookqa", tmp_path / "rows.jsonl", data_dir)))


def test_nothing_is_printed(loaded: Loaded, data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    list(harness.csr_rows(_cell(loaded, "csr", tmp_path / "rows.jsonl", data_dir, limit=2)))
    list(harness.gsm8k_rows(_cell(loaded, "gsm8k", tmp_path / "rows.jsonl", data_dir, limit=1, max_tokens=4)))
    assert capfd.readouterr() == ("", "")
