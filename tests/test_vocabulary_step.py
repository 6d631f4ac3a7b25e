"""The step that chooses tokens: what it keeps, what it costs, what a kill leaves, domains of every shape."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel import runtime
from submodel.api.information import info
from submodel.base.opening import open_base
from submodel.calibration import Domain, Samples, counting, parse_domains, vocabulary_text
from submodel.calibration.documents import Document
from submodel.calibration.vocabulary_text import VocabularyText, read_vocabulary_text
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.extract import vocabulary as step_module
from submodel.extract.job import extract
from submodel.extract.plan import make_plan
from submodel.extract.recipe import step_keys
from submodel.extract.steps import Walk, parse
from submodel.extract.vocabulary import ChooseVocabulary
from submodel.prune.vocabulary import choose
from submodel.prune.vocabulary.needed import head_rows
from submodel.runtime.batch import generate_batch
from submodel.runtime.continuation import Request
from submodel.runtime.generate import generate
from submodel.runtime.packed.head import DomainHead
from submodel.serve.registry import open_registry
from submodel.store import Store, verify
from tests import tiny, vocabularies
from tests.kill import KilledOnce
from tests.test_vocabulary_loss import ROWS, model_of

ROOT = vocabularies.ROOT / "src/submodel"


def save(folder: Path, name: str = "qwen", family: str = "llama", rows: int = ROWS, **more: Any) -> Path:
    """A random model with one of the tokenizers, as a directory."""
    model_of(family, rows, **more).save_pretrained(folder)
    vocabularies.fast(name).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_text, "HELD_OUT_TOKENS", 256)
    monkeypatch.setattr(vocabulary_text, "SAMPLE_TOKENS", 256)


def _no_requests(_: Path | None) -> None:
    return None


def _text(spec: str, tokenizer: Any, **more: Any) -> tuple[Domain, VocabularyText]:
    [domain] = parse_domains([spec], more.pop("texts", {}))
    more = {"requests": _no_requests, "seq_len": 64, **more}
    return domain, read_vocabulary_text(domain, tokenizer, **more)


def _extract(model: Path, out: Path, name: str = "mine", spec: str = f"mine={ROOT}/store:python", **more: Any) -> Any:
    base = open_base(str(model))
    _, text = _text(spec, base.tokenizer)
    text = replace(text, name=name)
    samples = Samples(name, tiny.ids(4, 24))
    options: dict[str, Any] = {"method": "wanda", "dtype": torch.float32, "routing": False, "vocab_loss": 0.05}
    return extract(base, [samples], out, vocabulary_texts={name: text}, **{**options, **more})


def test_a_step_of_its_own_at_the_end():
    assert parse("wanda", vocab_loss=0.01) == [Walk("wanda"), ChooseVocabulary(0.01)]
    assert isinstance(parse("wanda+distil", "marginal", "int8", 0.005)[-1], ChooseVocabulary)
    assert parse("wanda") == [Walk("wanda")]


def test_what_is_stored_and_checked(model: Path, tmp_path: Path):
    manifest = _extract(model, tmp_path / "s").manifests["mine"]
    vocabulary = Store(tmp_path / "s").vocabulary("mine")
    assert vocabulary is not None
    base = open_base(str(model))
    rules = step_module.tokenizer_model(base.tokenizer, "m")
    kept, cut = ({*vocabulary.ids(kind).tolist()} for kind in ("head", "cut"))
    assert {*rules.atoms, *rules.added} <= kept < set(rules.tokens) and rules.with_parts(cut) == cut
    entry = manifest["vocabulary"]
    assert entry["rows"] == ROWS == head_rows(base) and entry["head"]["kept"] == len(kept)
    for kind in ("head", "cut"):
        points = entry["curve"][kind]
        assert entry[kind]["loss"] in [p["loss"] for p in points if p["tokens"] == entry[kind]["kept"]]
        assert points[-1]["tokens"] == len(rules.tokens) and points[-1]["outside"] == 0
    assert entry["counted"][0]["tokens"] > 1000 and entry["held_out"]["windows"] == 4
    assert [what for what, _ in verify.verify(tmp_path / "s")] == ["base", "mine", "mine, vocabulary"]
    again = _extract(model, tmp_path / "s")
    assert again.already == ["mine"] and not (tmp_path / "s/work").exists()


def test_masks_that_are_there_are_not_made_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = open_base(str(model))
    samples = Samples("plain", tiny.ids(4, 24))
    extract(base, [samples], tmp_path / "s", method="wanda", dtype=torch.float32, routing=False)
    walks = KilledOnce(monkeypatch, Walk, "run", 99)
    manifest = _extract(model, tmp_path / "s").manifests["mine"]
    assert walks.calls == 0 and manifest["mask_of"]["name"] == "plain"
    assert manifest["masks"]["sha256"] == Store(tmp_path / "s").manifest("plain")["masks"]["sha256"]


@pytest.mark.parametrize(
    ("owner", "function", "call"), [(step_module, "count", 1), (choose, "window_losses", 2), (step_module, "curve", 2)]
)
def test_killed_within_and_started_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, call: int
):
    whole = _extract(model, tmp_path / "whole").manifests["mine"]
    with monkeypatch.context() as patch:
        KilledOnce(patch, owner, function, call)
        with pytest.raises(KeyboardInterrupt):
            _extract(model, tmp_path / "cut")
    assert not Store(tmp_path / "cut").names
    counts, walks = KilledOnce(monkeypatch, step_module, "count", 99), KilledOnce(monkeypatch, Walk, "run", 99)
    again = _extract(model, tmp_path / "cut").manifests["mine"]
    assert walks.calls == 0 and counts.calls == (function == "count")
    assert {k: v for k, v in again["vocabulary"].items()} == whole["vocabulary"]
    assert not (tmp_path / "cut/work").exists()


KILLED = """
import os, signal, sys
from submodel.calibration import counting, vocabulary_text
from submodel.extract import vocabulary
number = 0
def count(*given, **more):
    global number
    number += 1
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return counting.count(*given, **more)
vocabulary.count = count
vocabulary_text.HELD_OUT_TOKENS = vocabulary_text.SAMPLE_TOKENS = 256
from submodel.cli import main
main(sys.argv[1:])
"""


def test_kill_9_while_counting_leaves_nothing_half_written(model: Path, tmp_path: Path, data_dir: Path):
    out = tmp_path / "s"
    spec = ["--domain", f"mine={ROOT}/store:python", "--data-dir", str(data_dir), "--skip-contamination"]
    more = ["--method", "magnitude", "--tokens", "128", "--seq-len", "64", "--no-routing", "--no-check"]
    command = ["extract", str(model), *spec, *more, "--vocab", "domain", "--vocab-loss", "0.05", "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert not Store(out).names and not list(out.rglob("*.tokens"))
    assert main(command) == 0
    assert Store(out).vocabulary("mine") is not None and not (out / "work").exists()


def test_every_constant_and_the_text_are_in_the_key(model: Path, monkeypatch: pytest.MonkeyPatch):
    base = open_base(str(model))
    _, one = _text(f"mine={ROOT}/store:python", base.tokenizer)
    _, other = _text(f"mine={ROOT}/walk:python", base.tokenizer)
    samples = Samples("mine", tiny.ids(4, 24))

    def keys(text: VocabularyText, loss: float = 0.01) -> list[str]:
        texts = {"mine": text}
        plan = make_plan(base, [samples], method="wanda", vocab_loss=loss, vocabulary_texts=texts)
        return step_keys(plan.job, plan.steps, samples)

    first = keys(one)
    assert first[0] == keys(other)[0] and len({first[1], keys(other)[1], keys(one, 0.02)[1]}) == 3
    for module in (choose, counting, vocabulary_text):
        for name, value in vars(module).items():
            if name.isupper() and type(value) in (int, float):
                with monkeypatch.context() as patch:
                    patch.setattr(module, name, value + 1)
                    assert keys(one)[1] != first[1], name


def test_a_domain_of_one_file_holds_out_its_end(model: Path, tmp_path: Path):
    file = tmp_path / "one.txt"
    file.write_text("".join(f"line {number} of a file\n" for number in range(800)))
    _, text = _text(f"mine={file}", open_base(str(model)).tokenizer)
    [(counted, share)] = text.counted
    assert share == 1 and len(counted.documents) == 1 and counted.documents[0].text.endswith("\n")
    whole = file.read_text()
    assert whole.startswith(counted.documents[0].text) and 0.8 < len(counted.documents[0].text) / len(whole) < 0.9
    assert text.held_out.ids.shape == (4, 64)


def test_a_repository_without_held_out_files(model: Path, tmp_path: Path):
    for number, source in enumerate(("def f():\n    return 1\n" * 90, "x = 2\n" * 200)):
        (tmp_path / f"{number}.py").write_text(source)
    domain, text = _text(f"mine={tmp_path}:python", open_base(str(model)).tokenizer)
    assert domain.name == "mine" and text.held_out.ids.numel() >= 128
    assert sum(len(document.text) for document in text.counted[0][0].documents) < 90 * 22 + 1200


@pytest.mark.parametrize("words", ["", "too little text"])
def test_too_little_text_is_refused_in_a_line(model: Path, tmp_path: Path, words: str):
    (tmp_path / "one.txt").write_text(words or " ")
    with pytest.raises(SubmodelError, match="text") as refusal:
        _text(f"mine={tmp_path / 'one.txt'}", open_base(str(model)).tokenizer)
    assert "\n" not in str(refusal.value)


def test_parts_of_a_mixture_count_as_they_are_weighed(model: Path, tmp_path: Path):
    files = {name: tiny.write_jsonl(tmp_path / f"{name}.jsonl", name) for name in ("a", "b")}
    texts = {name: f"{file}:text" for name, file in files.items()}
    _, text = _text("mine=a:3+b", open_base(str(model)).tokenizer, texts=texts)
    assert [share for _, share in text.counted] == [0.75, 0.25]
    documents = [d for part, _ in text.counted for d in part.documents]
    held = set(text.held_out.documents)
    assert held and not held & set(documents), "what is held out is not counted"


def test_requests_count_for_a_tenth(model: Path, data_dir: Path):
    tokenizer = open_base(str(model)).tokenizer
    _, text = _text("python", tokenizer, data_dir=data_dir, requests=vocabulary_text.read_requests)
    [(python, share), (requests, rest)] = text.counted
    assert (python.name, requests.name) == ("python", "requests") and share == pytest.approx(0.9)
    assert rest == pytest.approx(0.1) and "Python" in " ".join(d.text for d in requests.documents)
    assert vocabulary_text.read_requests(model) is None  # a directory of data without the set


def test_counts_are_those_of_the_text(model: Path):
    tokenizer = open_base(str(model)).tokenizer
    documents = [Document("f", number, text) for number, text in enumerate(vocabularies.corpus()[:90])]
    counts = counting.count(documents, tokenizer, ROWS)
    ids = [tokenizer(d.text, add_special_tokens=False)["input_ids"] for d in documents]
    flat = torch.tensor([token for one in ids for token in one])
    assert counts.uses.tolist() == torch.bincount(flat, minlength=ROWS).tolist() and counts.tokens == len(flat)
    windows = [set(one[at : at + 512]) for one in ids for at in range(0, len(one), 512)]
    assert counts.windows.tolist() == [sum(token in window for window in windows) for token in range(ROWS)]
    few = counting.count(documents, tokenizer, ROWS, most=1)
    assert len(few.documents) == 64 and few.documents == counting.count(documents, tokenizer, ROWS, most=1).documents
    cut = counting.count(documents, tokenizer, 700)
    assert cut.above == int((flat >= 700).sum()) > 0 and cut.tokens + cut.above == len(flat)


def test_more_tokens_than_rows_is_refused_in_a_line_where_text_uses_them(tmp_path: Path):
    model = save(tmp_path / "m", rows=700)
    with pytest.raises(SubmodelError, match="700 rows") as refusal:
        _extract(model, tmp_path / "s")
    assert "\n" not in str(refusal.value) and not (tmp_path / "s").exists()


def test_added_tokens_without_rows(tmp_path: Path):
    """Two more tokens than rows, and text that does not use them: they are kept out of the head."""
    model = save(tmp_path / "m", rows=len(vocabularies.fast("qwen")) - 2)
    _extract(model, tmp_path / "s")
    vocabulary = Store(tmp_path / "s").vocabulary("mine")
    assert vocabulary is not None and vocabulary.rows == len(vocabularies.fast("qwen")) - 2
    verify.verify(tmp_path / "s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vocab-loss", "0.1"], "--vocab domain"),
        (["--vocab", "domain", "--vocab-loss", "0"], "0.005"),
        (["--vocab", "domain", "--vocab-loss", "nan"], "0.005"),
        (["--vocab", "domain", "--vocab-loss", "1.5"], "0.005"),
        (["--vocab", "domain", "--method", "magnitude"], "--domain"),
    ],
)
def test_options_that_make_no_sense(
    model: Path, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    domain = [] if "magnitude" in options else ["--domain", f"mine={ROOT}/store:python"]
    more = ["--tokens", "128", "--seq-len", "64"]
    assert main(["extract", str(model), *domain, *more, *options, "--out", str(tmp_path / "s")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said and not (tmp_path / "s").exists()


def test_another_kind_of_tokenizer_is_refused(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "m"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(document))
    command = ["extract", str(folder), "--domain", f"mine={ROOT}/store:python", "--method", "wanda", "--no-routing"]
    more = ["--tokens", "128", "--seq-len", "64", "--vocab", "domain", "--out", str(tmp_path / "s")]
    assert main([*command, *more]) == 2
    assert "dropout" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "s").exists()


@pytest.mark.parametrize("form", [None, "bf16", "int8", "shared-int8"])
def test_it_says_only_its_tokens_and_those_of_the_prompt(model: Path, tmp_path: Path, form: str | None):
    store, prompt = tmp_path / "s", "naïve façade: "
    _extract(model, store, vocab_loss=0.5)
    loaded = runtime.load(f"{store}@mine", weight_format=form)
    assert loaded.limit is not None and loaded.vocabulary is not None
    allowed = {*loaded.vocabulary.ids().tolist(), *loaded.tokenizer(prompt)["input_ids"]}
    ids = tuple(loaded.tokenizer(prompt)["input_ids"])
    requests = [Request("a", ids, 12, seeds=(0, 1, 2), temperature=2.0)]
    said = {token for written in generate_batch(loaded, requests) for token in written.tokens}
    assert said <= allowed and len(allowed) < ROWS
    assert generate(loaded, prompt, max_tokens=3) == generate(loaded, prompt, max_tokens=3)


@pytest.mark.parametrize("form", ["int8", "shared"])
def test_the_server_counts_and_says_what_is_kept(model: Path, tmp_path: Path, form: str):
    _extract(model, tmp_path / "s", vocab_loss=0.5)
    base = open_base(str(model))
    extract(base, [Samples("all", tiny.ids(4, 24))], tmp_path / "s", method="wanda", dtype=torch.float32, routing=False)
    registry = open_registry(tmp_path / "s", form)
    kept = Store(tmp_path / "s").manifest("mine")["vocabulary"]["head"]["kept"]
    about = registry.describe("mine")
    assert (about["tokens_kept"], about["tokens"]) == (kept, ROWS) and registry.describe("all")["tokens_kept"] is None
    smaller = registry.size_bytes("all") - registry.size_bytes("mine")
    assert smaller > 0 if form == "int8" else smaller == 0
    loaded = registry.load("mine")
    head: Any = loaded.model.get_output_embeddings()
    assert isinstance(head, DomainHead) and head.is_shared == (form == "shared")
    sizes = info(f"{tmp_path / 's'}@mine").memory_bytes, info(f"{tmp_path / 's'}@all").memory_bytes
    assert all(sizes[0][name] < sizes[1][name] for name in sizes[0])
