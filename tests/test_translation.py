"""METEOR against NLTK's own and against figures by hand, both roles, with and without WordNet; resuming."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.runtime import Loaded, load
from submodel.tasks import translation
from submodel.tasks.cell import Cell, Settings, Task

pytest.importorskip("nltk", reason="NLTK is an extra: submodel[eval]")

HAS_WORDNET = (translation.WORDNET / "data.noun").is_file()
needs_wordnet = pytest.mark.skipif(not HAS_WORDNET, reason=f"no WordNet in {translation.WORDNET} (wordnet-base)")
METRICS = ["meteor", "meteor-swapped"] * HAS_WORDNET + ["meteor-no-wordnet", "meteor-swapped-no-wordnet"]


@pytest.fixture(scope="module")
def loaded(llama: Path) -> Loaded:
    return load(str(llama))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    file = folder / translation.PAIRS.file
    file.parent.mkdir()
    pairs = [{"translation": {"fr": f"un chat {i}", "en": f"a cat {i}"}} for i in range(12)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


def _cell(loaded: Loaded, out: Path, data_dir: Path, **changes: Any) -> Cell:
    task = Task("translation", changes.pop("form", ""))
    progress = changes.pop("progress", lambda what, done, total: None)
    done = frozenset(changes.pop("done", ()))
    said = changes.pop("said", [])
    settings = Settings(data_dir=data_dir, **{"limit": 5, "samples": 2, "max_tokens": 8, **changes})
    return Cell(task, loaded, settings, out, done, progress, said.append)


def test_meteor_by_hand():
    """Five of six words match, in two chunks: P 5/5, R 5/6, F = PR / (.9 P + .1 R), penalty .5 (2/5)^3."""
    gold, text = "the small cat sat down today", "the small sat down today"
    recall = 5 / 6
    f = recall / (0.9 + 0.1 * recall)
    assert translation.best_meteor(gold, [text], translation.no_wordnet()) == pytest.approx(
        f * (1 - 0.5 * (2 / 5) ** 3)
    )
    swapped = recall / (0.9 * recall + 0.1)
    found = translation.best_meteor(gold, [text], translation.no_wordnet(), swapped=True)
    assert found == pytest.approx(swapped * (1 - 0.5 * (2 / 5) ** 3))


def test_best_of_several():
    texts = ["", "entirely different", "a cat", "The cat sleeps.", "the cats sleep"]
    scores = [translation.best_meteor("The cat sleeps.", [t], translation.no_wordnet()) for t in texts]
    assert scores[:2] == [0, 0] and scores[3] == max(scores) == pytest.approx(1 - 0.5 / 4**3)
    assert translation.best_meteor("The cat sleeps.", texts, translation.no_wordnet()) == max(scores)
    assert 0 < scores[4]  # stems match


@needs_wordnet
def test_synonyms_match_with_wordnet_alone():
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    wordnet = translation.open_wordnet(translation.WORDNET)
    assert translation.wordnet_version(translation.WORDNET) == wordnet.get_version() == "3.0"
    gold, text = "The car was hot.", "The auto was hot."  # words that are their own stems: NLTK looks up stems
    words = NLTKWordTokenizer().tokenize
    with_synonyms = translation.best_meteor(gold, [text], wordnet)
    assert with_synonyms == meteor_score([words(gold)], words(text), wordnet=wordnet) == pytest.approx(1 - 0.5 / 5**3)
    assert translation.best_meteor(gold, [text], translation.no_wordnet()) < with_synonyms
    others = ["The auto is red.", "A hot one."]
    swapped = translation.best_meteor(gold, others, wordnet, swapped=True)
    assert swapped == meteor_score([words(other) for other in others], words(gold), wordnet=wordnet)


@needs_wordnet
def test_lexnames_agree_with_the_data():
    """Every synset says the number of its file; names of nouns and verbs begin with their part of speech."""
    wordnet = translation.open_wordnet(translation.WORDNET)
    names = {synset.lexname() for word in ("dog", "run", "quick", "quickly") for synset in wordnet.synsets(word)}
    assert {"noun.animal", "verb.motion", "adj.all", "adv.all"} <= names
    assert len(translation.lexnames().splitlines()) == 45
    assert all(s.lexname().startswith("noun.") for s in wordnet.synsets("bank", "n"))


def test_rows(loaded: Loaded, data_dir: Path, tmp_path: Path):
    cell = _cell(loaded, tmp_path / "rows.jsonl", data_dir)
    rows = list(translation.translation_rows(cell))
    assert [row.metric for row in rows] == METRICS
    [journal] = (tmp_path / "rows.parts").iterdir()
    texts = {entry["key"]: entry["value"] for entry in map(json.loads, journal.read_text().splitlines())}
    assert len(texts) == 5 and all(len(samples) == 2 for samples in texts.values())
    assert len({sample for samples in texts.values() for sample in samples}) > 5
    for row in rows:
        swapped, wordnet = "swapped" in row.metric, "no-wordnet" not in row.metric
        matcher = translation.open_wordnet(translation.WORDNET) if wordnet else translation.no_wordnet()
        scores = [translation.best_meteor(f"a cat {at}", texts[at], matcher, swapped) for at in texts]
        assert row.value == pytest.approx(np.mean(scores))
        assert row.n == 5 and row.low <= row.value <= row.high
        assert row.settings["wordnet"] == ("3.0" if wordnet else None)
        expected = {"prompt": "labels", "samples": 2, "temperature": 0.95, "top_p": 0.95, "top_k": 250, "max_tokens": 8}
        assert expected.items() <= row.settings.items()
        assert row.data["name"] == "pud_fr_en" and row.data["rows"] == 5 and row.data["of"] == 12
    keys = [row.key for row in rows]
    assert list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, done=keys))) == []


class _Killed(Exception):
    pass


def test_resumes_at_the_pair(loaded: Loaded, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = list(translation.translation_rows(_cell(loaded, tmp_path / "whole.jsonl", data_dir)))

    def kill(what: str, done: int, total: int) -> None:
        if done == 2:
            raise _Killed

    out = tmp_path / "rows.jsonl"
    with pytest.raises(_Killed):
        list(translation.translation_rows(_cell(loaded, out, data_dir, progress=kill)))
    [journal] = out.with_suffix(".parts").iterdir()
    before = journal.read_text().splitlines()
    assert len(before) == 2
    asked = []
    run = translation.generate_batch
    monkeypatch.setattr(
        translation,
        "generate_batch",
        lambda loaded, requests, **options: asked.extend(requests) or run(loaded, requests, **options),
    )
    again = list(translation.translation_rows(_cell(loaded, out, data_dir)))
    assert {request.key for request in asked}.isdisjoint(json.loads(line)["key"] for line in before)
    assert [(row.metric, row.value) for row in again] == [(row.metric, row.value) for row in whole]
    # a larger choice of pairs contains the smaller one
    asked.clear()
    list(translation.translation_rows(_cell(loaded, out, data_dir, limit=8)))
    assert len(asked) == 3


def test_greedy_is_one_sample(loaded: Loaded, data_dir: Path, tmp_path: Path):
    rows = list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, temperature=0.0)))
    assert rows[0].settings["samples"] == 1 and rows[0].settings["temperature"] == 0.0
    assert "top_p" not in rows[0].settings


def test_forms_of_prompt(loaded: Loaded, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(translation, "generate_batch", lambda loaded, requests, **options: asked.extend(requests) or ())

    def prompt(**changes: Any) -> str:
        with pytest.raises(KeyError):  # no texts came
            list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, limit=1, **changes)))
        return loaded.tokenizer.decode(asked[-1].prompt)

    assert prompt().startswith("French: un chat ") and prompt().endswith("\nEnglish:")
    assert prompt(form="paper").startswith("#Text: un chat ") and prompt(form="paper").endswith(" #Translation:")
    with pytest.raises(SubmodelError, match="no chat template"):
        list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, chat=True)))
    monkeypatch.setattr(
        loaded.tokenizer, "chat_template", "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>"
    )
    assert prompt(chat=True).startswith("<user>Translate from French to English.")
    assert prompt(chat=True).endswith("<a>")
    with pytest.raises(SubmodelError, match="unknown prompt form"):
        list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, form="labls")))


def test_without_wordnet_here(loaded: Loaded, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(translation, "WORDNET", tmp_path / "none")
    said: list[str] = []
    rows = list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, limit=2, said=said)))
    assert [row.metric for row in rows] == ["meteor-no-wordnet", "meteor-swapped-no-wordnet"]
    assert len(said) == 1 and "WordNet" in said[0]
    with pytest.raises(SubmodelError, match="index.noun is missing"):
        list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", data_dir, wordnet=tmp_path)))


def test_bad_data(loaded: Loaded, tmp_path: Path):
    file = tmp_path / translation.PAIRS.file
    file.parent.mkdir()
    file.write_text('{"translation": {"fr": "oui"}}\n')
    with pytest.raises(SubmodelError, match=r"translation\.en"):
        list(translation.translation_rows(_cell(loaded, tmp_path / "rows.jsonl", tmp_path)))
