"""Domains made in Python: the same text as --domain and --calibration give, and one line for what makes no sense."""

from pathlib import Path

import pytest
import torch

from submodel.calibration import Budget, Domain, load_domain, load_samples, parse_domains
from submodel.calibration.constructors import domain, mixture, repository, text_file
from submodel.errors import SubmodelError
from tests import tiny

BUDGET = Budget(16, 6)
TESTS = Path(__file__).parent


def test_a_named_set():
    assert domain("python") == Domain("python", (("python", 1.0),))
    assert domain("python", name="snake").name == "snake" and domain("python", name="snake").parts == (("python", 1.0),)
    assert repr(domain("python")) == "<domain python>"
    with pytest.raises(SubmodelError, match="did you mean 'python'"):
        domain("pyton")


def test_as_the_command_line_spells_it():
    [expected] = parse_domains(["coder=python:2+java"], {})
    assert domain("coder=python:2+java") == expected == mixture({"python": 2, "java": 1}, name="coder")
    assert repr(expected) == "<domain coder: python:2+java:1>"
    assert domain(f"mine={TESTS}:python") == repository(TESTS, "python", name="mine")


def test_text_of_ones_own(texts: dict[str, Path]):
    tokenizer = tiny.byte_tokenizer()
    own = text_file(texts["python"], "text")
    assert own.name == "python" and repr(own) == f"<domain python: {texts['python']}:text>"
    samples = load_domain(own, tokenizer, BUDGET)
    expected = load_samples("python", f"{texts['python']}:text", tokenizer, samples=6, seq_len=16, seed=0)
    assert torch.equal(samples.ids, expected.ids) and samples.provenance == expected.provenance
    assert repr(samples) == "<python: 6 samples of 16 tokens>"


def test_a_repository():
    mine = repository(TESTS, language="python")
    assert mine.name == "tests"
    samples = load_domain(mine, tiny.byte_tokenizer(), BUDGET)
    assert samples.provenance and "repository" in samples.provenance.about
    [parsed] = parse_domains([f"tests={TESTS}:python"], {})
    assert torch.equal(samples.ids, load_domain(parsed, tiny.byte_tokenizer(), BUDGET).ids)


def test_a_mixture(texts: dict[str, Path]):
    parts: dict[str | Domain, float] = {text_file(texts["python"], name="a"): 2, text_file(texts["prose"], name="b"): 1}
    mixed = mixture(parts, name="both")
    assert mixed.recipe == "a:2+b:1" and len({mixed, mixture(parts, name="both")}) == 1
    samples = load_domain(mixed, tiny.byte_tokenizer(), BUDGET)
    assert samples.name == "both" and [part["tokens"] for part in samples.parts] == [64, 32]


def test_what_makes_no_sense(tmp_path: Path, texts: dict[str, Path]):
    coder = mixture({"python": 2, "java": 1}, name="coder")
    for make, message in (
        (lambda: mixture({}, name="x"), "no parts"),
        (lambda: mixture({"pyton": 1}, name="x"), "did you mean 'python'"),
        (lambda: mixture({"python": 0}, name="x"), "above 0"),
        (lambda: mixture({coder: 1, "math": 1}, name="x"), "coder has 2 parts"),
        (lambda: mixture({"python": 1, domain("python", name="snake"): 1}, name="x"), "twice"),
        (lambda: repository(tmp_path / "nothing"), "no such directory"),
        (lambda: repository(tmp_path, "pyton"), "unknown language"),
        (lambda: text_file(tmp_path / "nothing"), "no such file"),
    ):
        with pytest.raises(SubmodelError, match=message) as refusal:
            make()
        assert "\n" not in str(refusal.value)
