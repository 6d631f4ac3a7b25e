"""lm-evaluation-harness over HTTP (its `local-completions`) gives the figures of `submodel eval`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from submodel.base import native
from submodel.runtime import Loaded, load
from submodel.serve.server import Server
from submodel.tasks import harness
from tests import serving

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an extra: submodel[eval]")
pytest.importorskip("tenacity", reason="lm-evaluation-harness needs it for servers: pip install tenacity")

from lm_eval.evaluator import evaluate  # noqa: E402  (after the skips)
from lm_eval.models.openai_completions import LocalCompletionsAPI  # noqa: E402

from submodel.tasks import harness_tasks  # noqa: E402
from tests.test_harness import _cell as cell_of  # noqa: E402
from tests.test_harness import data_dir  # noqa: E402, F401  (a fixture)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With positions enough for worked examples in bytes."""
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    return serving.make_store(tmp_path_factory.mktemp("harness"), context=4096)


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(store: Path) -> Loaded:
    return load(f"{store}@python", weight_format="bf16")


def _over_http(server: Server, store: Path, task: Any, **options: Any) -> Any:
    made: Any = LocalCompletionsAPI
    model = made(
        base_url=f"{server.url}/v1/completions",
        model="python",
        tokenizer=str(store.parent / "model"),
        tokenizer_backend="huggingface",
        max_length=4096,
        max_retries=1,
        **options,
    )
    results: Any = evaluate(model, {"tasks": {"task": task}}, log_samples=True, bootstrap_iters=0)
    return results


@pytest.mark.filterwarnings("ignore")  # of the harness and its client
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", ["arc_easy", "hellaswag"])
def test_choices_are_scored_as_by_eval(
    name: str,
    batch_size: int,
    server: Server,
    store: Path,
    loaded: Loaded,
    data_dir: Path,  # noqa: F811
    tmp_path: Path,
):
    cell = cell_of(loaded, name, tmp_path / "rows.jsonl", data_dir)
    rows = list(harness.HARNESS[name](cell))
    ask = harness._ask_set(cell, name)
    results = _over_http(server, store, harness_tasks.build_task(name, ask.documents), batch_size=batch_size)
    ours = cell.journal(rows[0]).entries
    assert len(results["samples"]["task"]) == len(ours) == 9
    for sample in results["samples"]["task"]:
        for (value, greedy), [(expected, expected_greedy)] in zip(
            ours[str(sample["doc_id"])], sample["resps"], strict=True
        ):
            assert value == pytest.approx(expected, rel=2e-3)  # bfloat16, summed in another order
            assert greedy == expected_greedy
    for row in rows:
        assert row.value == results["results"]["task"][f"{row.metric},none"]


@pytest.mark.filterwarnings("ignore")
def test_texts_are_those_of_eval(server: Server, store: Path, loaded: Loaded, data_dir: Path, tmp_path: Path):  # noqa: F811
    cell = cell_of(loaded, "gsm8k", tmp_path / "rows.jsonl", data_dir, max_tokens=12, limit=2)
    rows = list(harness.gsm8k_rows(cell))
    ask = harness._ask_gsm8k(cell)
    generation = {**(ask.generation or {}), "temperature": 0}
    task = harness_tasks.build_task("gsm8k_cot", ask.documents, generation)
    results = _over_http(server, store, task)
    texts = {sample["doc_id"]: sample["resps"][0][0] for sample in results["samples"]["task"]}
    assert {int(doc): text for doc, (text,) in cell.journal(rows[0]).entries.items()} == texts
    assert json.dumps(texts)
    for row in rows:
        if row.metric != harness.PAPER:
            assert row.value == results["results"]["task"][row.metric]
