"""Batch generation against transformers' own loop, one prompt at a time."""

import gc
import math
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.runtime import Loaded, Request, batch, generate_batch, load
from submodel.runtime.cache import KeyValueCache
from submodel.runtime.sampling import pick
from tests import tiny


def _alone(loaded: Loaded, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """transformers' greedy continuation."""
    ids = torch.tensor([prompt])
    model: Any = loaded.model
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=258
    )
    return out[0, len(prompt) :].tolist()


def _prompts(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 40, (count,), generator=generator).tolist()
    return [tuple(tiny.ids(1, length, seed=seed + i)[0].tolist()) for i, length in enumerate(lengths)]


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
@pytest.mark.parametrize(("slots", "lanes"), [(3, 1), (2, 2), (None, 2)])
def test_greedy_equals_one_at_a_time(family: str, slots: int | None, lanes: int, tmp_path: Path):
    """Whoever shares the batch, and whichever row a sequence is moved to."""
    loaded = load(str(tiny.save(family, tmp_path / family)))
    prompts = _prompts(11)
    requests = [Request(str(i), prompt, 3 + 5 * (i % 4)) for i, prompt in enumerate(prompts)]
    found = {c.key: c for c in generate_batch(loaded, requests, slots=slots, lanes=lanes)}
    assert sorted(found, key=int) == [str(i) for i in range(11)]
    for request in requests:
        expected = _alone(loaded, request.prompt, request.max_tokens)
        assert list(found[request.key].tokens) == expected, (family, request.key)
        ended = expected[-1] == 258
        assert found[request.key].finish == ("eos" if ended else "length")


def test_prompts_of_unlike_length_are_not_padded_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where there are tokens enough without the shorter ones."""
    loaded = load(str(tiny.save("llama", tmp_path / "model")))
    prompts = [tuple(tiny.ids(1, length, seed=length)[0].tolist()) for length in (30, 29, 28, 12, 11, 3)]
    shapes: list[tuple[int, ...]] = []
    whole = batch.forward

    def counted(model: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return whole(model, ids, *rest)

    monkeypatch.setattr(batch, "forward", counted)
    monkeypatch.setattr(batch, "_ENOUGH", 50)
    requests = [Request(str(i), prompt, 1) for i, prompt in enumerate(prompts)]
    found = {c.key: c for c in generate_batch(loaded, requests, lanes=1)}
    assert shapes == [(3, 30), (3, 12)]  # 3 x 12 are too few to stand alone
    for request in requests:
        assert list(found[request.key].tokens) == _alone(loaded, request.prompt, 1)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_what_all_prompts_begin_with_is_computed_once(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loaded = load(str(tiny.save(family, tmp_path / family)))
    beginning = tuple(tiny.ids(1, 90, seed=9)[0].tolist())
    prompts = [beginning + prompt for prompt in _prompts(5)] + [beginning[:-1]]  # one that is all beginning
    seen: list[int] = []
    for name in ("forward", "extend"):
        whole = getattr(batch, name)
        ids = 1 if name == "forward" else 2

        def counted(*args: Any, whole: Any = whole, ids: int = ids) -> Any:
            seen.append(args[ids].numel() if torch.is_tensor(args[ids]) else len(args[ids]))
            return whole(*args)

        monkeypatch.setattr(batch, name, counted)
    requests = [Request(str(i), prompt, 8) for i, prompt in enumerate(prompts)]
    found = {c.key: c for c in generate_batch(loaded, requests, slots=3, lanes=2)}
    assert sorted(seen) == sorted(len(prompt) - 88 for prompt in prompts)  # 88: all but one token of the shortest
    for request in requests:
        assert list(found[request.key].tokens) == _alone(loaded, request.prompt, 8), (family, request.key)


def test_stops_where_the_text_says_so(llama: Path):
    loaded = load(str(llama))
    prompts = _prompts(6, seed=3)
    free = {c.key: c for c in generate_batch(loaded, [Request(str(i), p, 60) for i, p in enumerate(prompts)])}
    for i, prompt in enumerate(prompts):
        text = free[str(i)].text
        stop = text[20:23]
        [cut] = generate_batch(loaded, [Request("x", prompt, 60, (stop, "never there"))])
        assert cut.text == text[: text.find(stop)]
        assert cut.finish == "stop" and len(cut.tokens) < 60


def test_a_request_may_name_tokens_that_end_it(llama: Path):
    loaded = load(str(llama))
    [prompt] = _prompts(1, seed=3)
    [free] = generate_batch(loaded, [Request("x", prompt, 30)])
    for at in (0, 7):
        [cut] = generate_batch(loaded, [Request("x", prompt, 30, ends=frozenset({free.tokens[at]}))])
        first = free.tokens.index(free.tokens[at])
        assert cut.finish == "eos" and cut.tokens == free.tokens[: first + 1]
        assert cut.text == loaded.tokenizer.decode(cut.tokens[:-1]), "what ended it is no text"


def test_samples_share_a_prompt_and_not_their_luck(llama: Path):
    loaded = load(str(llama))
    [prompt] = _prompts(1, seed=5)
    many = Request("a", prompt, 12, seeds=tuple(range(7)), temperature=1.0, top_p=0.95)
    together = {c.sample: c.tokens for c in generate_batch(loaded, [many], slots=3, lanes=1)}
    assert sorted(together) == list(range(7)) and len(set(together.values())) > 1
    for sample in range(7):
        alone = Request("a", prompt, 12, seeds=(sample,), temperature=1.0, top_p=0.95)
        [found] = generate_batch(loaded, [alone])
        assert found.tokens == together[sample]


def test_a_failure_in_a_lane_reaches_the_caller(llama: Path):
    loaded = load(str(llama))
    with pytest.raises(IndexError):
        list(generate_batch(loaded, [Request("a", (10_000,), 4)]))
    with pytest.raises(ValueError, match="at least one token"):
        list(generate_batch(loaded, [Request("a", (), 4)]))
    assert list(generate_batch(loaded, [])) == []


def test_an_abandoned_run_ends(llama: Path):
    loaded = load(str(llama))
    running: Any = generate_batch(loaded, [Request(str(i), (1, 2, 3), 50) for i in range(40)], slots=2)
    next(running)
    running.close()
    assert len(list(generate_batch(loaded, [Request("a", (1, 2, 3), 5)]))) == 1


def test_a_cache_is_let_go_at_once(llama: Path):
    """Not by the garbage collector, which may come gigabytes later."""
    loaded = load(str(llama))
    cache = KeyValueCache(loaded.model.config.num_hidden_layers, 2, 9)
    gc.disable()
    try:
        cache.starts = [0, 0]
        with torch.inference_mode():
            loaded.model(input_ids=torch.ones(2, 4, dtype=torch.long), past_key_values=cache.past_key_values)
        layer: Any = cache.past_key_values.layers[0]
        kept = weakref.ref(layer.keys)
        del layer
        assert kept() is not None
        del cache
        assert kept() is None
    finally:
        gc.enable()


def _reference(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """The distribution to sample from, written out."""
    chances = (logits.double() / temperature).softmax(-1)
    order = chances.argsort(descending=True, stable=True).tolist()
    if top_k:
        order = order[:top_k]
    total = sum(float(chances[i]) for i in order)
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += float(chances[i]) / total
        if mass >= top_p:
            break
    out = torch.zeros_like(chances)
    out[kept] = chances[kept]
    return out / out.sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "spread"),
    [(0.8, 0.95, 0, 3.0), (1.0, 1.0, 0, 2.0), (0.7, 0.9, 5, 2.0), (2.0, 0.999, 0, 0.01), (1.0, 0.5, 3, 30.0)],
)
def test_sampling_draws_the_written_out_distribution(temperature: float, top_p: float, top_k: int, spread: float):
    generator = torch.Generator().manual_seed(1)
    logits = spread * torch.randn(37, generator=generator)
    expected = _reference(logits, temperature, top_p, top_k)
    draws = 20_000
    counts = Counter(pick(logits, temperature, top_p, top_k, generator) for _ in range(draws))
    assert all(expected[i] > 0 for i in counts)
    for i, chance in enumerate(expected.tolist()):
        sigma = math.sqrt(draws * chance * (1 - chance))
        assert abs(counts[i] - draws * chance) <= 5 * sigma + 1, i


def test_slots_move_left_when_the_columns_are_used_up(llama: Path):
    """A long run in few columns gives the same text as one in many."""
    loaded = load(str(llama))
    prompts = _prompts(9, seed=9)
    requests = [Request(str(i), p, 40) for i, p in enumerate(prompts)]
    tight = {c.key: c.tokens for c in generate_batch(loaded, requests, slots=2, lanes=1)}
    assert tight == {c.key: c.tokens for c in generate_batch(loaded, requests, slots=9, lanes=1)}
    with pytest.raises(ValueError, match="do not hold"):
        full = KeyValueCache(1, 1, 4)
        full.starts, full.end = [0], 4
        full.prepare(1)
