"""Routing: explicit signals, the discriminant against a plain reference, statistics in stores, the verb."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.base.opening import open_base
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits
from submodel.router import Decision, Signals, background, conversation, detector, open_router, profile, prompts
from submodel.router.discriminant import Moments, fit, from_moments
from submodel.router.languages import (
    SPOKEN,
    language_named,
    language_of_file,
    languages_in_words,
    languages_of,
    subject_of,
)
from submodel.router.pooled import Pooler, weights_of
from submodel.router.signals import fences
from submodel.router.threshold import best_threshold
from submodel.runtime import load
from submodel.store import Mask, Store, open_or_create
from tests import tiny

CODE = "def quick_sort(items):\n    # sorts a list of numbers\n    return sorted(items)\n"
BRACES = "public static int firstIndex(int[] values) {\n    // finds the first index\n    return 0;\n}\n"


def make_store(folder: Path, base: Any, domains: dict[str, list[str]], fitted: bool = True) -> Store:
    """A store of sub-models that hold one mask bit."""
    store = open_or_create(
        folder, {"reference": str(base.path), "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    )
    for at, (name, documents) in enumerate(domains.items()):
        mask = Mask(pack_bits(np.ones((1, 8), dtype=bool)), 8)
        store.add(name, {"w": mask}, {"created": f"2026-01-0{at + 1}", "calibration": None, "method": "none"})
        if fitted:
            profile.fit_texts(store, Pooler(base), name, documents)
    return store


def words(kind: str, documents: int = 30) -> list[str]:
    """Documents of made words, other ones for each kind."""
    rng = random.Random(kind)
    letters = "".join(rng.sample("abcdefghijklmnopqrstuvwxyz", 6))
    return [
        " ".join("".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(40)) + "." for _ in range(documents)
    ]


@pytest.fixture(scope="module")
def fitted(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with two languages and a domain that is none, fitted."""
    domains = {"python": [CODE] * 20, "java": [BRACES] * 20, "herbs": words("herbs")}
    return make_store(tmp_path_factory.mktemp("stores") / "s", open_base(str(llama)), domains)


@pytest.fixture(scope="module")
def plain(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same without statistics."""
    return make_store(
        tmp_path_factory.mktemp("stores") / "p", open_base(str(llama)), {"python": [], "java": [], "herbs": []}, False
    )


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "_opened", lambda: None)


# signals


@pytest.mark.parametrize(
    ("signals", "name", "signal"),
    [
        (Signals("sort it", language="Python3"), "python", "header"),
        (Signals("sort it", language="herbs"), "herbs", "header"),
        (Signals("sort it", language="python", file="A.java"), "python", "header"),
        (Signals("sort it", file="C:\\src\\A.java"), "java", "file"),
        (Signals(f"```python\n{CODE}```", file="src/A.java"), "java", "file"),
        (Signals(f"what is this?\n```py\n{CODE}```\n"), "python", "fence"),
        (Signals(f"```python\n{CODE}```\nin Java:\n```java\n"), "java", "fence"),
        (Signals("sort it", file="main.rs"), None, "file"),
        (Signals("sort it", language="rust"), None, "header"),
    ],
)
def test_explicit_signals(plain: Store, no_detector: None, signals: Signals, name: str | None, signal: str):
    assert open_router(plain).choose(signals) == Decision(name, 1.0, signal)


@pytest.mark.parametrize("file", ["README.md", "notes.txt", "x.unheard", ""])
def test_a_file_that_says_nothing_is_passed_over(plain: Store, no_detector: None, file: str):
    assert open_router(plain).choose(Signals("sort it", file=file)).signal == "default"


def test_an_unknown_header_is_passed_over(plain: Store, no_detector: None):
    assert open_router(plain).choose(Signals("x", language="klingon", file="a.py")) == Decision("python", 1.0, "file")


def test_the_default_takes_what_has_no_sub_model(plain: Store, no_detector: None):
    router = open_router(plain, default="herbs")
    assert router.choose(Signals("", file="main.rs")) == Decision("herbs", 1.0, "file")
    assert router.choose(Signals("hello")) == Decision("herbs", 0.0, "default")


def test_related_languages_share_a_sub_model(llama: Path, tmp_path: Path):
    store = make_store(tmp_path / "s", open_base(str(llama)), {"cpp": [], "javascript": []}, fitted=False)
    router = open_router(store)
    chosen = [router.choose(Signals("", file=file)).name for file in ("a.h", "a.hpp", "b.ts", "b.mjs", "c.java")]
    assert chosen == ["cpp", "cpp", "javascript", "javascript", None]


def test_of_several_for_a_language_the_one_with_its_name_is_taken(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    named = make_store(tmp_path / "a", base, {"python": [], "python-web": []}, fitted=False)
    assert open_router(named).choose(Signals("", file="a.py")).name == "python"
    newest = make_store(tmp_path / "b", base, {"python-old": [], "python-web": []}, fitted=False)
    assert open_router(newest).choose(Signals("", file="a.py")).name == "python-web"


def test_fences():
    text = "a\n```py\nx = 1\n```\nb\n~~~c++\nint y;\n~~~\n```\nopen"
    assert fences(text) == [("py", "x = 1\n"), ("c++", "int y;\n"), ("", "open")]
    assert fences("no ``` fence `here`") == []


@pytest.mark.parametrize(
    ("given", "language"),
    [("C++", "cpp"), ("js", "javascript"), ("golang", "go"), (" Python ", "python"), ("markdown", None), ("?", None)],
)
def test_language_names(given: str, language: str | None):
    assert language_named(given) == language


def test_a_sub_models_languages():
    assert language_of_file("a/b/c.hpp") == "cpp"
    assert languages_of("swaps", {"column": "python", "path": "x"}) == ["python"]
    assert languages_of("mine", {"rows": {"a.py": [0], "b.py": [0], "c.java": [0]}}) == ["python", "java"]
    assert languages_of("coder", {"path": "/data/code_search_net/java/train.jsonl", "rows": {"train.jsonl": [0]}}) == [
        "java"
    ]
    assert languages_of("cpp", None) == ["cpp"]
    assert languages_of("c4", {"path": "/data/c4/train.jsonl"}) == []
    assert subject_of("wmt14", None) == "translation"
    assert subject_of("maths", {"path": "/data/gsm8k"}) is None


def test_languages_in_words():
    assert languages_in_words("Write a java function, no JavaScript") == ["java", "javascript"]
    assert languages_in_words("in C++ or C#, C++") == ["cpp", "csharp"]
    assert languages_in_words("Let it go, C. Javanese rust") == []


def test_one_language_in_words_decides_what_is_not_sure(plain: Store, fitted: Store, no_detector: None):
    assert open_router(plain).choose(Signals("Sort a list in Java.")).name == "java"
    assert open_router(plain).choose(Signals("Sort a list in Java or Python.")).name is None
    assert open_router(plain).choose(Signals("Sort a list in PHP.")) == Decision(None, 0.0, "default")
    decision = open_router(fitted, threshold=1.0).choose(Signals(words("herbs")[3] + " in Java"))
    assert (decision.name, decision.signal) == ("java", "mention")
    assert decision.confidence == max(decision.scores.values())


def test_conversations():
    assert conversation([("system", "be brief"), ("user", "sort a list")]) == "sort a list"
    talk = [("user", "write Java"), ("assistant", "class A {}"), ("user", "faster")]
    assert conversation(talk) == "write Java\nclass A {}\nfaster"
    assert conversation([*talk, ("assistant", "ok")]) == "write Java\nclass A {}\nfaster"
    long = "x" * 500
    assert conversation([("user", "write Java"), ("user", long)]) == long
    assert conversation([("user", "y" * 900), ("user", "now")]) == "y" * 397 + "\nnow"
    assert conversation([("system", "only this")]) == "only this"
    assert conversation([]) == ""


# the detector


def test_the_detector_decides_where_there_are_no_statistics(plain: Store):
    pytest.importorskip("magika", reason="the detector is an extra: pip install submodel[route]")
    decision = open_router(plain).choose(Signals(f"import os\nimport sys\n\n{CODE * 3}"))
    assert (decision.name, decision.signal) == ("python", "detector")
    prose = open_router(plain).choose(Signals("Which season follows autumn, and why do leaves fall?"))
    assert (prose.name, prose.signal) == (None, "default")


@pytest.mark.parametrize(("language", "name"), [("java", "java"), ("rust", None)])
def test_the_detector_is_asked_where_activations_are_not_sure(
    fitted: Store, monkeypatch: pytest.MonkeyPatch, language: str, name: str | None
):
    monkeypatch.setattr(detector, "detect", lambda code: (language, 0.8))
    assert open_router(fitted, threshold=0.0).choose(Signals(CODE)).signal == "activations"
    decision = open_router(fitted, threshold=1.0).choose(Signals(CODE))
    assert (decision.name, decision.signal, decision.confidence) == (name, "detector", 0.8)
    gap = open_router(fitted, threshold=1.0).choose(Signals(CODE[:20], suffix=CODE[40:]))
    assert (gap.name, gap.signal) == (name, "fim")
    monkeypatch.setattr(detector, "detect", lambda code: (language, 0.4))
    assert open_router(fitted, threshold=1.0).choose(Signals(CODE)).signal == "default"


# the discriminant


def random_groups(size: int, seed: int = 0) -> dict[str | None, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(size, size))
    return {
        label: {
            kind: rng.normal(size=(count, size)) @ mixing + 2 * rng.normal(size=size) for kind, count in kinds.items()
        }
        for label, kinds in {"a": {"x": 17, "y": 8}, "b": {"x": 30}, None: {"z": 5}}.items()
    }


@pytest.mark.parametrize("size", [1, 3, 40])
def test_moments_add_up(size: int):
    vectors = np.random.default_rng(0).normal(size=(23, size)) * 3 + 7
    merged = Moments.of(vectors[:1]).merged(Moments.of(vectors[1:9])).merged(Moments.of(vectors[9:]))
    whole = Moments.of(vectors)
    assert merged.count == 23
    np.testing.assert_allclose(merged.mean, vectors.mean(0))
    np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-9)
    np.testing.assert_allclose(whole.scatter / 22, np.cov(vectors.T).reshape(size, size))


@pytest.mark.parametrize("size", [2, 7, 60])  # the last has more columns than vectors
def test_the_discriminant_is_that_of_the_textbook(size: int):
    groups = random_groups(size)
    found = fit(groups)
    keys = [(label, kind) for label, kinds in groups.items() for kind in kinds]
    residuals = np.concatenate([groups[a][b] - groups[a][b].mean(0) for a, b in keys])
    covariance = residuals.T @ residuals / (len(residuals) - len(keys))
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / size * np.eye(size)
    points = np.random.default_rng(1).normal(size=(9, size)) * 5
    expected = np.zeros((9, 3))
    for row, point in enumerate(points):
        densities: dict[Any, list[float]] = {"a": [], "b": [], None: []}
        for label, kind in keys:
            away = point - groups[label][kind].mean(0)
            densities[label].append(-0.5 * away @ np.linalg.solve(shrunk, away))
        logs = np.array([np.logaddexp.reduce(d) - np.log(len(d)) for d in densities.values()]) / found.temperature
        expected[row] = np.exp(logs - np.logaddexp.reduce(logs))
    assert found.labels == ["a", "b", None]
    np.testing.assert_allclose(found.probabilities(points), expected, atol=1e-9)


def test_a_new_label_needs_no_new_look_at_the_others():
    groups = random_groups(7)
    moments = {(label, kind): Moments.of(v) for label, kinds in groups.items() for kind, v in kinds.items()}
    points = np.random.default_rng(1).normal(size=(5, 7))
    np.testing.assert_allclose(fit(groups).distances(points), from_moments(moments).distances(points), rtol=1e-6)


def test_overconfidence_is_cooled():
    rng = np.random.default_rng(0)
    # one coordinate counts five times, as words of one text do: the discriminant takes its copies for evidence
    first = rng.normal(size=(400, 1)) + np.repeat([[-0.7], [0.7]], 200, axis=0)
    vectors = np.repeat(first, 5, axis=1) + rng.standard_t(2, size=(400, 5)) * 0.3
    found = fit({"a": {"x": vectors[:200]}, "b": {"x": vectors[200:]}})
    assert found.temperature >= 1
    told = found.probabilities(vectors)
    assert abs(told.max(1).mean() - (told.argmax(1) == np.repeat([0, 1], 200)).mean()) < 0.1


def test_parts_of_an_explanation_add_up(fitted: Store):
    router = open_router(fitted)
    text = "write a Python function that sorts a list of numbers"
    assert router.activations is not None
    discriminant = router.activations.discriminant
    vector = router.activations.pooler.pool(text)[None]
    nearest = [
        min(
            d
            for d, (label, _) in zip(discriminant.distances(vector)[0], discriminant.keys, strict=True)
            if label == name
        )
        for name in ("python", "java")
    ]
    parts = router.speaking(text, "python", "java")
    assert sum(part for _, part in parts) == pytest.approx((nearest[1] - nearest[0]) / 2, rel=1e-3)
    assert len(parts) == len(set(text))


# vectors of texts


def test_pooling_is_the_mean_over_distinct_tokens_of_the_models_own_states(llama: Path):
    pooler = Pooler(open_base(str(llama)))
    text = "abracadabra, sort it"
    loaded = load(str(llama), dtype=pooler.dtype)
    with torch.inference_mode():
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
        hidden = loaded.model(ids, output_hidden_states=True).hidden_states[1][0].float()
    hidden = hidden / hidden.square().mean(-1, keepdim=True).sqrt()
    distinct = [hidden[ids[0] == token].mean(0) for token in ids[0].unique()]
    torch.testing.assert_close(torch.from_numpy(pooler.pool(text)), torch.stack(distinct).mean(0), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("family", sorted([*tiny.FAMILIES, *tiny.MIXTURES]))
def test_every_family_is_pooled_alone_as_among_others(family: str, tmp_path: Path):
    pooler = Pooler(open_base(str(tiny.save(family, tmp_path / family))))
    texts = ["one", "", "quite another text " * 3, "x" * 3000]
    found = pooler.pool_all(texts)
    assert found.shape == (4, pooler.size) and np.isfinite(found).all()
    assert not found[1].any()
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(pooler.pool(text), vector, atol=0.05)


def test_weights_count_distinct_tokens_once():
    np.testing.assert_allclose(weights_of([5, 5, 2, 5]), [1 / 6, 1 / 6, 1 / 2, 1 / 6])
    assert weights_of([]).shape == (0,)


# texts


def test_requests_name_the_language_and_the_task():
    made = prompts.requests([BRACES, CODE], "code", "Java", 80, 0)
    assert len(made) == 80 and all("Java" in text for text in made)
    assert any("first index" in text for text in made)
    assert prompts.requests(["#Text: Good day. #Translation: Bonjour."], None, None, 2, 0) == ["Good day."] * 2
    translations = prompts.requests(["Bonjour tout le monde."], "translation", None, 9, 0)
    assert len(translations) == 9 and all("Bonjour" in text for text in translations)


def test_pieces_and_stubs():
    found = prompts.pieces([CODE, BRACES], 40, 0)
    assert len(found) == 40 and len(set(found)) > 10 and all(piece in CODE + BRACES for piece in found)
    assert prompts.pieces(["", "  \n "], 5, 0) == []
    heads = prompts.stubs([BRACES], ["Why is the sky blue?"], "java", 40, 0)
    assert len(heads) == 40 and all("*/" in head or "//" in head for head in heads)
    assert any("public static int firstIndex" in head for head in heads)
    for language in SPOKEN:
        assert len(prompts.heads_of(language)) >= 3
        assert len(prompts.stubs(["no code here"], ["Why?"], language, 5, 0)) == 5


def test_the_background_names_no_language_but_in_its_kind():
    texts = background.texts()
    assert {"everyday", "prose", "code", "code.rust"} <= texts.keys()
    assert all(len(group) >= 12 for group in texts.values())
    assert not any("Rust" in text or "Python" in text for text in texts["code"])


def test_documents_come_back_from_samples(llama: Path):
    from submodel.calibration import Document, pack_documents

    tokenizer = open_base(str(llama)).tokenizer
    documents = [Document("f", at, text) for at, text in enumerate(words("a", 12))]
    samples = pack_documents("a", documents, tokenizer, samples=4, seq_len=300, seed=0, path="f")
    found = profile.documents_of(samples, tokenizer)
    assert found and all(any(text in document.text for document in documents) for text in found)


# stores


def test_content_is_told_by_activations(fitted: Store, no_detector: None):
    router = open_router(fitted, threshold=0.0)
    for name, text in (("python", CODE), ("java", BRACES), ("herbs", words("herbs")[3])):
        decision = router.choose(Signals(text))
        assert (decision.name, decision.signal) == (name, "activations")
        assert decision.confidence == max(decision.scores.values())
        assert sum(decision.scores.values()) == pytest.approx(1)
        assert decision.scores.keys() == {"python", "java", "herbs", "base"}
    assert router.choose(Signals(profile.background.texts()["prose"][0])).name is None


def test_low_confidence_goes_to_the_default(fitted: Store, no_detector: None):
    for default in (None, "java"):
        router = open_router(fitted, threshold=1.0, default=default)
        decision = router.choose(Signals(words("herbs")[3] + CODE))
        assert (decision.name, decision.signal) == (default, "default")
        assert decision.scores["python"] < 1


def test_a_gap_in_code_goes_to_a_language(fitted: Store, no_detector: None):
    decision = open_router(fitted, threshold=0.0).choose(Signals(CODE[:20], suffix=CODE[40:]))
    assert (decision.name, decision.signal) == ("python", "fim")
    assert decision.scores.keys() == {"python", "java"}
    assert sum(decision.scores.values()) == pytest.approx(1)
    decision = open_router(fitted, threshold=1.0).choose(Signals("", suffix=""))
    assert decision.signal == "default"


def test_sub_models_of_one_text_are_one_label_and_the_newest_stands_for_it(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    store = make_store(tmp_path / "s", base, {"old": words("x"), "other": words("y"), "new": words("x")})
    router = open_router(store, base, threshold=0.0)
    decision = router.choose(Signals(words("x")[0]))
    assert decision.name == "new" and decision.scores.keys() == {"new", "other", "base"}
    assert router.same == {"old": "new", "other": "other", "new": "new"}


def test_a_store_may_lack_some_statistics(llama: Path, tmp_path: Path, no_detector: None):
    base = open_base(str(llama))
    store = make_store(tmp_path / "s", base, {"a": words("a"), "b": words("b")})
    (tmp_path / "s/submodels/b/routing.safetensors").unlink()
    router = open_router(store, base, threshold=0.0)
    assert router.missing == ("b",)
    assert router.choose(Signals(words("a")[0])).name == "a"
    assert router.choose(Signals("x", language="b")).name == "b"


def damage(file: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    said = {"format": "1", "base": "no such base", "blocks": "1", "pooling": profile._POOLING, "languages": "[]"}
    tensors = load_file(file)
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-10])
    elif how == "version":
        save_file(tensors, file, {**said, "format": "7"})
    elif how == "base":
        save_file(tensors, file, said)
    else:
        digest = Store(file.parents[2]).base["sha256"]
        save_file({k: torch.full_like(v, torch.inf) for k, v in tensors.items()}, file, {**said, "base": digest})


@pytest.mark.parametrize("how", ["cut", "version", "base", "infinite"])
def test_damaged_statistics_are_refused_in_one_line(llama: Path, tmp_path: Path, how: str):
    make_store(tmp_path / "s", open_base(str(llama)), {"a": words("a")})
    damage(tmp_path / "s/submodels/a/routing.safetensors", how)
    with pytest.raises(SubmodelError, match=r"routing\.safetensors: .*--fit a=PATH") as refused:
        open_router(Store(tmp_path / "s"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "said"), [({"threshold": 1.5}, "from 0 to 1"), ({"default": "no"}, "unknown sub-model")]
)
def test_bad_settings_are_refused(plain: Store, option: dict[str, Any], said: str):
    with pytest.raises(SubmodelError, match=said):
        open_router(plain, **option)


def test_the_best_threshold():
    sure, unsure = {"a": 0.9, "base": 0.1}, {"a": 0.6, "base": 0.4}
    assert best_threshold([(sure, "a"), (unsure, "base")]) == 0.9
    assert best_threshold([(sure, "a"), (unsure, "a")]) == 0.6
    assert best_threshold([(sure, "a"), (unsure, "a"), ({"b": 0.7}, "a"), ({"b": 0.65}, "a")]) == 0.9
    with pytest.raises(SubmodelError, match="no request"):
        best_threshold([({}, "a")])


# the verb, and extraction


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_extracted_sub_models_are_told_apart(
    llama: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], no_detector: None
):
    out = str(tmp_path / "s")
    own = [f"--calibration={name}={path}" for name, path in texts.items()]
    run(capsys, "extract", str(llama), "--out", out, *own, "--samples=24", "--seq-len=96")
    for name, path in texts.items():
        row = json.loads(path.read_text().splitlines()[-1])
        found = run(capsys, "route", out, row["text"], "--threshold=0")
        assert found["signal"] == "activations" and found["tokens"]
        assert found["scores"][name] == max(found["scores"][other] for other in texts)
    assert main(["verify", out]) == 0
    capsys.readouterr()
    assert main(["route", out, "sort it", "--file", "a.py"]) == 0
    assert capsys.readouterr().out.startswith("python, by the file's name, confidence 1.000")


def test_an_old_store_is_fitted_and_its_threshold_set(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_detector: None
):
    store = make_store(tmp_path / "s", open_base(str(llama)), {"a": [], "b": []}, fitted=False)
    assert main(["route", str(store.path), "hello"]) == 0
    said = capsys.readouterr()
    assert "the base, by default" in said.out and "--fit NAME=PATH" in said.err and said.err.count("\n") == 1
    rows = [{"text": text, "name": kind} for kind in "ab" for text in words(kind)[20:]]
    for kind in "ab":
        lines = [json.dumps({"text": text}) for text in words(kind)[:20]]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
    fits = [f"--fit={kind}={tmp_path / f'{kind}.jsonl'}" for kind in "ab"]
    assert run(capsys, "route", str(store.path), *fits)["fitted"] == {"a": 20, "b": 20}
    own = tmp_path / "own.jsonl"
    own.write_text("\n".join(json.dumps(row) for row in [*rows, {"text": "Why is the sky blue?", "name": None}]))
    threshold = run(capsys, "route", str(store.path), "--calibrate", str(own))["threshold"]
    router = open_router(store)
    assert router.threshold == threshold
    assert [router.choose(Signals(row["text"])).name for row in rows] == [row["name"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give TEXT, --fit or --calibrate"),
        (["x", "--language", "klingon"], "unknown language or sub-model 'klingon'"),
        (["--fit", "python"], "give NAME=PATH"),
        (["--fit", "nobody=x.txt"], "unknown sub-model"),
        (["--calibrate", "nowhere.jsonl"], "give JSON lines"),
        (["x", "--default", "nobody"], "unknown sub-model"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    plain: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    assert main(["route", str(plain.path), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1]
