"""What a document looks like to the model, one document a sample, and what a token counts for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.base.opening import open_base
from submodel.calibration import Budget, Document, Samples, load_samples, pack, with_openings
from submodel.calibration.documents import Text, read_text
from submodel.calibration.forms import FORMS
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.prune.statistics import Gram, SquaredNorm
from submodel.store import Store
from submodel.walk import Pruned, walk
from tests import tiny

MARKS = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]


def text_of(lengths: Sequence[int]) -> Text:
    letters = "abcdefghijklmnopqrstuvwxyz"
    texts = [letters[i % 26] * length for i, length in enumerate(lengths)]
    return Text("t", [Document("f", i, t) for i, t in enumerate(texts)], "f")


def packed(text: Text, tokenizer: Any = None, **budget: Any) -> Samples:
    return pack("t", [(text, 1)], tokenizer or tiny.byte_tokenizer(), Budget(**{"seq_len": 16, "samples": 6, **budget}))


def test_one_document_a_sample():
    samples = packed(text_of([3, 40, 9, 5, 7, 2]), shape="document")
    assert samples.lengths and sorted(samples.lengths) == [3, 4, 6, 8, 10, 16]  # with </s>; the long one is cut off
    provenance = samples.provenance
    assert provenance and provenance.tokens == sum(samples.lengths) and provenance.as_dict()["shape"] == "document"
    for ids, length in zip(samples.ids, samples.lengths, strict=True):
        assert len(set(ids[: length - 1].tolist())) == 1 and not ids[length:].any()
    exact = packed(text_of([30] * 20), shape="document", tokens=75)
    assert exact.lengths == (16, 16, 16, 16, 11), "the budget is exact"
    with pytest.raises(SubmodelError, match="6 samples asked"):
        packed(text_of([3, 3]), shape="document")
    two = [(text_of([9] * 9), 1.0)] * 2
    with pytest.raises(SubmodelError, match="give --tokens"):
        pack("m", two, tiny.byte_tokenizer(), Budget(16, 4, shape="document"))


def test_long_documents_give_more_samples_when_documents_run_out():
    samples = packed(text_of([40, 3]), shape="document", samples=4)
    assert samples.lengths and sorted(samples.lengths) == [4, 9, 16, 16]


def test_openings_are_no_padding():
    samples = packed(text_of([3, 40, 9, 5, 7, 2]), shape="document")
    openings = with_openings(samples, 8, tiny.VOCABULARY).openings
    assert openings is not None and set(openings[:7].tolist()) == set(samples.tokens.tolist()) and 0 not in openings[:7]


def test_a_mixture_of_documents():
    parts = [(text_of([9] * 30), 3.0), (text_of([4] * 30), 1.0)]
    samples = pack("m", parts, tiny.byte_tokenizer(), Budget(16, tokens=200, shape="document"))
    provenance = samples.provenance
    assert provenance and [part["tokens"] for part in provenance.parts] == [150, 50] and provenance.tokens == 200
    assert samples.lengths and {10, 5} <= set(samples.lengths[:4])


def test_a_token_of_weight_w_counts_as_w_of_it(llama: Path, tmp_path: Path):
    """The last of 12 tokens sees the others and is seen by none, so it is the difference of two walks."""
    ids = tiny.ids(2, 12)
    weights = torch.ones(2, 12)
    weights[1, -1] = 3.5
    weights[0] = 0.25
    base = open_base(str(llama))
    found: dict[str, dict[str, torch.Tensor]] = {}

    def decide(domain: str, name: str, weight: torch.Tensor, statistics: Any) -> Pruned:
        found.setdefault(domain, {})[name] = statistics[0].sum_squares.double()
        return Pruned(torch.ones(1, dtype=torch.bool).expand(weight.shape))

    domains = [Samples("weighted", ids, weights=weights), Samples("first", ids[:1])]
    domains += [Samples("second", ids[1:]), Samples("prefix", ids[1:, :-1])]
    for make in (SquaredNorm, Gram):
        work = tmp_path / make.__name__
        work.mkdir()
        walk(base, domains, make=make, decide=decide, keep=lambda *_: None, work=work, dtype=torch.float32)
        for name, first in found["first"].items():
            last = found["second"][name] - found["prefix"][name]
            expected = 0.25 * first + found["prefix"][name] + 3.5 * last
            torch.testing.assert_close(found["weighted"][name], expected, rtol=1e-3, atol=1e-4)


def test_fill_in_the_middle():
    tokenizer = tiny.byte_tokenizer()
    with pytest.raises(SubmodelError, match="no fill-in-the-middle tokens"):
        packed(text_of([20]), form="fim")
    tokenizer.add_tokens(MARKS, special_tokens=True)
    before, after, between = (tokenizer.get_vocab()[mark] for mark in MARKS)
    form = FORMS["fim"](tokenizer)
    rng = np.random.default_rng(0)
    for text in ("x", "abcdefgh", "".join(map(chr, range(48, 120)))):
        for _ in range(20):
            tokens = form.encode(Document("f", 0, text))
            seen = form.finish(tokens, rng)
            assert len(seen) <= len(tokens) + form.extra and seen[0] == before and seen[-1] == 258
            a, b = seen.index(after), seen.index(between)
            assert tokenizer.decode(seen[1:a] + seen[b + 1 : -1] + seen[a + 1 : b]) == text
    samples = packed(text_of([40] * 12), tokenizer, form="fim", shape="document")
    assert samples.ids.shape[1] <= 16 and (samples.ids[:, 0] == before).all()
    assert samples.provenance and samples.provenance.as_dict()["form"] == "fim"
    with pytest.raises(SubmodelError, match="--seq-len"):
        packed(text_of([40] * 12), tokenizer, form="fim", seq_len=4)


def test_fill_in_the_middle_with_what_comes_after_it_first():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(["[PREFIX]", "[SUFFIX]"], special_tokens=True)
    form, rng = FORMS["fim"](tokenizer), np.random.default_rng(0)
    before, after = (tokenizer.get_vocab()[mark] for mark in ("[PREFIX]", "[SUFFIX]"))
    for _ in range(20):
        seen = form.finish(form.encode(Document("f", 0, "abcdefgh")), rng)
        at = seen.index(before)
        assert seen[0] == after and seen[-1] == 258
        assert tokenizer.decode(seen[at + 1 : -1] + seen[1:at]) == "abcdefgh"


def test_two_columns_are_joined(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"q": "why", "a": "so", "n": 1}))
    [document] = read_text("x", f"{file}:q,a").documents
    assert document.text == "why\nso"
    with pytest.raises(SubmodelError, match="no column 'b'"):
        read_text("x", f"{file}:q,b")


def test_unknown_shapes():
    for option in ("shape", "form"):
        with pytest.raises(SubmodelError, match=f"unknown {option}"):
            packed(text_of([9] * 9), **{option: "odd"})
    with pytest.raises(SubmodelError, match="form chat has been removed: give raw"):
        packed(text_of([9] * 9), form="chat")


def test_what_is_usual_is_not_written(texts: dict[str, Path]):
    provenance = load_samples(
        "d", str(texts["python"]), tiny.byte_tokenizer(), samples=2, seq_len=16, seed=0
    ).provenance
    assert provenance and not {"shape", "form", "set", "parts"} & provenance.as_dict().keys()


def test_documents_are_extracted_from(llama: Path, tmp_path: Path):
    samples = packed(text_of([9, 30, 12, 4, 20, 11]), shape="document")
    extract(open_base(str(llama)), [samples], tmp_path / "s", dtype=torch.float32)
    calibration = Store(tmp_path / "s").manifest("t")["calibration"]
    assert calibration["shape"] == "document" and calibration["samples"] == 6
