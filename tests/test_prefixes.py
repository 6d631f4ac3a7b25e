"""Prompts that begin as earlier ones did: the same answers, bit for bit, with less computed, in bounded memory."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.base import native
from submodel.runtime import Loaded, Request, load
from submodel.runtime.forward import extend, one_row
from submodel.runtime.model_thread import ModelThread
from submodel.runtime.prefix_cache import PrefixCache, PrefixPath
from tests import tiny
from tests.test_model_thread import Caller
from tests.test_packed_models import store_of

PIECE = 8
Tokens = tuple[int, ...]


class Plain:
    """The slow twin: prefixes of pieces in a list, the least recently used first."""

    def __init__(self, most: int):
        self.kept: list[tuple[Tokens, ...]] = []
        self.most = most

    def walk(self, pieces: tuple[Tokens, ...]) -> int:
        """How many pieces of a prompt are there; then all of them are, as far as there is room."""
        known = next((n for n in range(len(pieces), 0, -1) if pieces[:n] in self.kept), 0)
        for depth in range(1, len(pieces) + 1):
            if depth > 1 and pieces[: depth - 1] not in self.kept:
                break
            for prefix in [pieces[:n] for n in range(depth, 0, -1)]:
                if prefix in self.kept:
                    self.kept.remove(prefix)
                self.kept.append(prefix)
            del self.kept[: max(0, len(self.kept) - self.most)]
        return known


def _states(pieces: tuple[Tokens, ...]) -> list[torch.Tensor]:
    return [torch.tensor([*sum(pieces, ())], dtype=torch.int64)[-4:]]


def _walk(prefixes: PrefixCache, pieces: tuple[Tokens, ...]) -> int:
    path, known = PrefixPath(), 0
    for depth, piece in enumerate(pieces, start=1):
        found = prefixes.find(path, piece) if len(path) == known == depth - 1 else None
        if found is not None:
            known = depth
            assert torch.equal(found[0], _states(pieces[:depth])[0])
        elif len(path) == depth - 1:
            prefixes.keep(path, piece, _states(pieces[:depth]))
    return known


@pytest.mark.parametrize("most", [0, 1, 3, 10, 1000])
def test_what_is_kept_and_what_goes(most: int):
    rng = random.Random(most)
    size = _states(((1, 2, 3, 4),))[0].nbytes
    prefixes, plain = PrefixCache(most * size), Plain(most)
    for turn in range(400):
        if turn == 200:
            prefixes.limit(most // 2 * size)
            plain.most = most // 2
            del plain.kept[: max(0, len(plain.kept) - plain.most)]
        pieces = tuple((rng.randrange(3), 1, 2, depth) for depth in range(rng.randrange(1, 6)))
        assert _walk(prefixes, pieces) == plain.walk(pieces)
        assert prefixes.size_bytes == len(plain.kept) * size <= plain.most * size


def test_a_path_whose_end_has_gone_is_not_gone_on_with():
    prefixes = PrefixCache(1000)
    path, first, second = PrefixPath(), (1, 2, 3, 4), (5, 6, 7, 8)
    prefixes.keep(path, first, _states((first,)))
    prefixes.limit(0)
    prefixes.limit(1000)
    other = PrefixPath()
    prefixes.keep(other, first, _states((first,)))  # the same tokens again
    prefixes.keep(path, second, _states((first, second)))
    assert len(path) == len(other) == 1 and prefixes.find(other, second) is None
    prefixes.keep(other, second, _states((first, second)))
    assert prefixes.find(path, second) is None and len(other) == 2


@pytest.fixture(params=["qwen2 bf16", "llama int8", "mistral bf16", "gemma2 int4", "opt"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """With the native engine, with a window of attention, and through transformers."""
    monkeypatch.setattr("submodel.runtime.model_thread.PIECE", PIECE)
    family, _, weight_format = request.param.partition(" ")
    if weight_format and not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    if weight_format:
        return load(store_of(tmp_path, family), weight_format=weight_format)
    return load(str(tiny.save(family, tmp_path / family)))


def _requests(count: int) -> list[Request]:
    """Prompts that share beginnings of all lengths, whole pieces or not, some of them twice."""
    rng = random.Random(3)
    whole = [tuple(tiny.ids(1, 60, seed=seed)[0].tolist()) for seed in range(3)]
    prompts = []
    for index in range(count):
        shared = rng.choice(whole)[: rng.choice([0, 1, 7, 8, 9, 16, 17, 24, 40, 41, 56])]
        own = tuple(tiny.ids(1, 30, seed=100 + index)[0].tolist())[: rng.choice([0, 1, 2, 7, 8, 9, 30])]
        prompts.append(shared + own or whole[0][:8])
    prompts += prompts[: count // 4]
    return [Request(str(index), prompt, rng.choice([1, 5, 12])) for index, prompt in enumerate(prompts)]


def _answer(caller: Caller) -> tuple[object, ...]:
    caller.wait()
    scores = [score for piece in caller.seen[0] for score in piece.scores]
    return caller.tokens(), caller.text(), caller.finish(), scores


def _shared(prompt: Tokens, earlier: list[Tokens]) -> int:
    """Tokens in whole pieces that a prompt has in common with an earlier one, its last piece left out."""
    counts = [
        next((n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), None) for other in earlier
    ]
    common = [
        min(len(prompt), len(other)) if count is None else count for count, other in zip(counts, earlier, strict=True)
    ]
    return min(max(common, default=0) // PIECE, (len(prompt) - 1) // PIECE) * PIECE


def test_answers_are_those_of_a_model_that_was_never_asked(loaded: Loaded):
    """Tokens, text and every log probability; and what is common is not computed again."""
    requests = _requests(24)
    fresh = []
    for request in requests:
        thread = ModelThread(loaded)
        caller = Caller(thread, request, best=3)
        fresh.append(_answer(caller))
        assert caller.ticket.cached == 0
        thread.close()
    thread = ModelThread(loaded)
    try:
        for index, request in enumerate(requests):
            caller = Caller(thread, request, best=3)
            assert _answer(caller) == fresh[index], index
            assert caller.ticket.cached == _shared(request.prompt, [other.prompt for other in requests[:index]])
        if loaded.engine:  # side by side as well
            together = [Caller(thread, request, best=3) for request in requests]
            assert [_answer(caller) for caller in together] == fresh
    finally:
        thread.close()


@torch.inference_mode()
def test_a_piece_does_not_depend_on_the_prompt_that_it_was_computed_for(loaded: Loaded):
    """Keys and values bit for bit, wherever the prompt ends."""
    prompt = tiny.ids(1, 60, seed=4)[0].tolist()
    found = []
    for length in (16, 17, 23, 24, 47, 60):
        cache: Any = one_row(loaded, length)
        for start in range(0, length, PIECE):
            extend(loaded, cache, prompt[start : min(start + PIECE, length)])
        found.append(cache.cut(0, 16))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    again: Any = one_row(loaded, 20)
    again.paste(found[0])
    assert again.end == 16 and all(torch.equal(a, b) for a, b in zip(again.cut(0, 16), found[0], strict=True))


def test_what_is_kept_and_what_answers_share_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("submodel.runtime.model_thread.PIECE", PIECE)
    loaded = load(store_of(tmp_path, "llama"))
    thread = ModelThread(loaded)
    fresh = [_answer(Caller(thread, request)) for request in _requests(24)]
    thread.close()
    cache_bytes = 300 * thread._token_bytes  # room for 300 tokens: 256 of them for one answer
    thread = ModelThread(loaded, rows=4, cache_bytes=cache_bytes)
    seen: list[tuple[int, int]] = []
    turn = thread._turn

    def watched() -> None:
        turn()
        cache = thread._scheduler.cache if thread._scheduler else None
        size = cache.rows * cache.columns * thread._token_bytes if cache else 0
        seen.append((thread._prefixes.size_bytes, size))

    monkeypatch.setattr(thread, "_turn", watched)
    try:
        hits = 0
        for request, expected in zip(_requests(24), fresh, strict=True):
            caller = Caller(thread, request)
            assert _answer(caller) == expected
            hits += caller.ticket.cached
        assert hits > 0
        assert all(kept + rows <= cache_bytes for kept, rows in seen)
        assert any(rows for _, rows in seen) and max(kept for kept, _ in seen) > 0
    finally:
        thread.close()


def test_a_prompt_that_is_cancelled_leaves_what_it_computed(loaded: Loaded):
    prompt = tuple(tiny.ids(1, 90, seed=9)[0].tolist())
    thread = ModelThread(loaded)
    try:
        for _ in range(5):
            caller = Caller(thread, Request("a", prompt, 4))
            caller.ticket.cancel()
            caller.wait()
        after = Caller(thread, Request("b", prompt, 4))
        answer = _answer(after)
    finally:
        thread.close()
    thread = ModelThread(loaded)
    assert _answer(Caller(thread, Request("b", prompt, 4))) == answer
    thread.close()
