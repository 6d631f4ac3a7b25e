"""The native engine against the same packed model's own layers, one step at a time and in batches."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.base import native
from submodel.calibration import middle
from submodel.calibration.middle import Spelling
from submodel.errors import SubmodelError
from submodel.runtime import Loaded, Request, generate, generate_batch, infill, load
from submodel.runtime.cache import KeyValueCache
from submodel.runtime.engine import FAMILIES
from submodel.runtime.forward import prefill, step
from tests import tiny
from tests.test_packed_models import export, store_of

_TINY = {"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"}


@pytest.fixture(autouse=True)
def library() -> None:
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")


def _without_engine(loaded: Loaded) -> Loaded:
    other = Loaded(loaded.reference, loaded.base, loaded.model, loaded.manifest)
    assert other.engine is None
    return other


def test_every_native_family_is_tried():
    assert set(FAMILIES) == _TINY


@pytest.mark.parametrize("family", sorted(_TINY))
@pytest.mark.parametrize("form", ["bf16", "int8", "dense"])
@torch.inference_mode()
def test_steps_are_the_models(family: str, form: str, tmp_path: Path):
    """Logits step by step over two sequences of different length, past every window, within bfloat16's rounding."""
    loaded = load(store_of(tmp_path, family), weight_format=form)
    plain = _without_engine(loaded)
    assert loaded.engine is not None
    caches = []
    for one in (loaded, plain):
        cache = KeyValueCache(len(one.model.model.layers), 2, 40)  # type: ignore[union-attr]
        for length in (15, 4):
            found, _ = prefill(one, tiny.ids(1, length, seed=length)[0].tolist(), length)
            cache.add(found, 0)
        caches.append(cache)
    for token in range(7):
        last = [token * 17 + 3, 200 - token]
        mine, theirs = (step(one, cache, last).float() for one, cache in zip((loaded, plain), caches, strict=True))
        assert (mine - theirs).norm() <= 0.03 * theirs.norm(), (token, float((mine - theirs).norm() / theirs.norm()))
    for a, b in zip(caches[0].past_key_values.layers, caches[1].past_key_values.layers, strict=True):
        mine, theirs = (t.keys[:, :, : caches[0].end].float() for t in (a, b))  # type: ignore[attr-defined]
        assert (mine - theirs).norm() <= 0.03 * theirs.norm()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
@torch.inference_mode()
def test_caps_and_rotations_are_felt(family: str, tmp_path: Path):
    """The test above would see them left out."""
    loaded = load(store_of(tmp_path, family), weight_format="dense")
    assert loaded.engine is not None
    plan: Any = loaded.engine._plan
    found = []
    for leave_out in (None, "logit_cap", "attention_cap" if family == "gemma2" else "rotation"):
        if leave_out == "rotation":
            for i in range(plan.blocks):
                plan.block[i].rotation = 0
        elif leave_out:
            setattr(plan, leave_out, 0.0)
        cache, _ = prefill(loaded, tiny.ids(1, 15)[0].tolist(), 17)
        found.append(step(loaded, cache, [7]).clone())
    for one, other in zip(found, found[1:], strict=False):
        assert (one - other).norm() > 0.05 * one.norm()


def _tokens(loaded: Loaded, requests: list[Request], **options: Any) -> dict[str, tuple[int, ...]]:
    return {c.key: c.tokens for c in generate_batch(loaded, requests, **options)}


@pytest.mark.parametrize("form", ["bf16", "int4"])
def test_a_batch_is_its_sequences(form: str, tmp_path: Path):
    """Greedy text does not hang on who shares the batch, nor on threads: every row is computed by itself."""
    loaded = load(store_of(tmp_path, "qwen2"), weight_format=form)
    prompts = [tuple(tiny.ids(1, 3 + 2 * i, seed=i)[0].tolist()) for i in range(9)]
    # prefilled one by one in both runs: torch's product may round otherwise for another number of rows
    requests = [Request(str(i), prompt, 12, seeds=(0,)) for i, prompt in enumerate(prompts)]
    alone = {}
    for request in requests:
        alone |= _tokens(loaded, [request])
    before = torch.get_num_threads()
    try:
        for threads, lanes, slots in [(1, 1, 1), (2, 1, 1), (2, 2, 1)]:
            torch.set_num_threads(threads)
            assert _tokens(loaded, requests, lanes=lanes, slots=slots) == alone
    finally:
        torch.set_num_threads(before)
    together = _tokens(loaded, requests, lanes=2, slots=4)
    assert sum(together[key] == alone[key] for key in alone) >= 7  # prefilled together, near ties may fall otherwise


def test_generate_streams_what_it_returns(tmp_path: Path):
    loaded = load(store_of(tmp_path, "llama"), weight_format="int8")
    parts: list[str] = []
    text = generate(loaded, "some text", max_tokens=20, write=parts.append)
    assert text and "".join(parts) == text
    ids = loaded.tokenizer("some text")["input_ids"]
    [found] = generate_batch(loaded, [Request("x", tuple(ids), 20)])
    assert found.text == text
    sampled = [generate(loaded, "some text", max_tokens=20, temperature=0.8, seed=seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize("form", ["int8", None])
def test_a_suffix_is_filled_in(form: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With letters as the marks: what a mark ends is what the prompt with them in place is continued by."""
    loaded = load(store_of(tmp_path, "llama"), weight_format=form)
    whole = generate(loaded, "AxyBzC", max_tokens=40)
    with pytest.raises(SubmodelError, match="no fill-in-the-middle tokens"):
        generate(loaded, "xy", suffix="z")
    plain = [letter for letter in whole if letter.isascii() and letter.isprintable()]
    for last in {plain[0], plain[-1]}:
        monkeypatch.setattr(middle, "SPELLINGS", (Spelling("A", "B", "C"),))
        monkeypatch.setattr(infill, "_AFTER", (loaded.tokenizer.tokenize(last)[0],))
        parts: list[str] = []
        text = generate(loaded, "xy", suffix="z", max_tokens=40, write=parts.append)
        assert text == "".join(parts) == re.split(f"[ABC{re.escape(last)}]", whole)[0]
    with pytest.raises(SubmodelError, match="a chat does not fill in"):
        generate(loaded, "xy", suffix="z", chat=True)


def test_other_families_take_the_models_way(tmp_path: Path):
    loaded = load(store_of(tmp_path, "gpt_neox"), weight_format="int8")
    assert loaded.engine is None
    assert generate(loaded, "some text", max_tokens=5)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_bf16_loses_nothing(family: str, tmp_path: Path):
    """Greedy text of the packed sub-model is that of the dense model with zeros in place, token for token."""
    reference = store_of(tmp_path, family)
    export(reference, tmp_path / "zeros", "hf")
    packed, zeros = load(reference, weight_format="bf16"), load(str(tmp_path / "zeros"), weight_format="dense")
    prompts = [tuple(tiny.ids(1, 1 + 3 * i, seed=i)[0].tolist()) for i in range(12)]
    requests = [Request(str(i), prompt, 20) for i, prompt in enumerate(prompts)]
    for slots in (1, 5):
        assert _tokens(packed, requests, slots=slots) == _tokens(zeros, requests, slots=slots)


@torch.inference_mode()
def test_steps_while_another_thread_builds_a_model(tmp_path: Path):
    """transformers sets the default dtype of the whole process for as long as it builds one."""
    loaded = load(store_of(tmp_path, "llama"), weight_format="bf16")
    cache, _ = prefill(loaded, [5, 6, 7], 20)
    again, _ = prefill(loaded, [5, 6, 7], 20)
    expected = step(loaded, cache, [9])
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = step(loaded, again, [9])
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_model_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reference = store_of(tmp_path, "llama")
    opened: Any = {}
    first = load(reference, weight_format="bf16", opened=opened)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the default dtype is set")

    monkeypatch.setattr(torch, "set_default_dtype", refuse)
    second = load(reference, weight_format="bf16", opened=opened)
    prompt = tiny.ids(1, 9)
    assert torch.equal(first.model(prompt).logits, second.model(prompt).logits)  # type: ignore[operator]
