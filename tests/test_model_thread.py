"""Requests that come and go: what each is answered is what it is answered alone."""

import queue
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.base import native
from submodel.errors import SubmodelError
from submodel.runtime import Loaded, Request, generate_batch, load
from submodel.runtime.cache import KeyValueCache
from submodel.runtime.continuation import Piece
from submodel.runtime.forward import extend, one_row, prefill, step
from submodel.runtime.model_thread import ModelThread, Ticket
from submodel.runtime.text import TextStream
from tests import tiny
from tests.test_packed_models import store_of

WAIT_S = 60


class Caller:
    """Gathers the pieces of one request."""

    def __init__(self, thread: ModelThread, request: Request, **options: Any):
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.seen: dict[int, list[Piece]] = {sample: [] for sample in range(len(request.seeds))}
        self.ticket: Ticket = thread.submit(request, self.pieces.put, **options)

    def wait(self) -> "Caller":
        while any(not pieces or not pieces[-1].finish for pieces in self.seen.values()):
            piece = self.pieces.get(timeout=WAIT_S)
            self.seen[piece.sample].append(piece)
        return self

    def tokens(self, sample: int = 0) -> list[int]:
        return [token for piece in self.seen[sample] for token in piece.tokens]

    def text(self, sample: int = 0) -> str:
        return "".join(piece.text for piece in self.seen[sample])

    def finish(self, sample: int = 0) -> str | None:
        return self.seen[sample][-1].finish


def _prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(tiny.ids(1, length, seed=seed)[0].tolist())


@pytest.fixture
def packed(tmp_path: Path) -> Loaded:
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    return load(store_of(tmp_path, "llama"), weight_format="bf16")


@pytest.mark.parametrize("form", ["bf16", "int8", "int4", "dense"])
@torch.inference_mode()
def test_a_row_does_not_know_who_else_is_there(form: str, kernels: str, tmp_path: Path):
    """Bit for bit the same logits in a batch of any size, on every instruction set."""
    if kernels == "torch":
        pytest.skip("no engine")
    loaded = load(store_of(tmp_path, "qwen2"), weight_format=form)
    layers = loaded.model.config.num_hidden_layers
    prompts = [list(_prompt(3 + 2 * i, i)) for i in range(19)]
    lone = []
    for prompt in prompts:
        cache, _ = prefill(loaded, prompt, 60)
        lone.append([step(loaded, cache, [token])[0] for token in (7, 80)])
    for count in (2, 5, 9, 17, 19):
        cache = KeyValueCache(layers, count, 60)
        for prompt in prompts[:count]:  # the short ones first: the others move them along
            cache.add(prefill(loaded, prompt, len(prompt))[0], 0)
        for at, token in enumerate((7, 80)):
            logits = step(loaded, cache, [token] * count, alone=True)
            for row in range(count):
                assert torch.equal(logits[row], lone[row][at]), (count, row)


def test_a_token_that_ends_it_is_no_text(packed: Loaded):
    thread = ModelThread(packed, rows=2)
    try:
        free = Caller(thread, Request("a", _prompt(9, 1), 20)).wait().tokens()
        cut = Caller(thread, Request("b", _prompt(9, 1), 20, ends=frozenset({free[5]}))).wait()
        assert cut.finish() == "eos" and cut.tokens() == free[: free.index(free[5]) + 1]
        assert cut.text() == packed.tokenizer.decode(cut.tokens()[:-1])
    finally:
        thread.close()


def test_greedy_answers_do_not_depend_on_the_others(packed: Loaded):
    """Random joins, cancels and lengths; every answer equals the one given to a single request."""
    rng = random.Random(1)
    requests = [
        Request(str(i), _prompt(rng.choice([1, 5, 20, 60]), i), rng.choice([1, 4, 17, 40]), seeds=(0,))
        for i in range(24)
    ]
    thread = ModelThread(packed, rows=7)
    try:
        alone = [Caller(thread, request).wait() for request in requests]
        callers = []
        for request in requests:
            callers.append(Caller(thread, request))
            if rng.random() < 0.3:
                callers[-1].ticket.cancel()
            if rng.random() < 0.3:
                time.sleep(0.003)
        finished = 0
        for caller, expected in zip(callers, alone, strict=True):
            caller.wait()
            if caller.finish() == "cancelled":
                assert caller.tokens() == expected.tokens()[: len(caller.tokens())]
            else:
                finished += 1
                assert (caller.tokens(), caller.text()) == (expected.tokens(), expected.text())
        assert finished >= 10
    finally:
        thread.close()


def test_answers_are_the_batchs(llama: Path):
    loaded = load(str(llama))
    requests = [Request(str(i), _prompt(3 + 4 * i, i), 20) for i in range(6)]
    expected = {c.key: c for c in generate_batch(loaded, requests, slots=1, lanes=1)}
    thread = ModelThread(loaded, rows=3)
    try:
        for caller, request in [(Caller(thread, r), r) for r in requests]:
            caller.wait()
            assert tuple(caller.tokens()) == expected[request.key].tokens
            assert caller.finish() == expected[request.key].finish
    finally:
        thread.close()


def test_seeds_decide_what_is_drawn(packed: Loaded):
    thread = ModelThread(packed, rows=4)
    try:
        many = Request("a", _prompt(9, 5), 12, seeds=tuple(range(9)), temperature=1.0, top_p=0.95)  # more than rows
        together = Caller(thread, many).wait()
        assert len({tuple(together.tokens(i)) for i in range(9)}) > 1
        for seed in range(9):
            single = Request("b", many.prompt, 12, seeds=(seed,), temperature=1.0, top_p=0.95)
            assert Caller(thread, single).wait().tokens() == together.tokens(seed)
    finally:
        thread.close()


def test_stop_strings_end_an_answer_and_are_not_shown(packed: Loaded):
    thread = ModelThread(packed)
    try:
        request = Request("a", _prompt(6, 2), 60)
        free = Caller(thread, request).wait().text()
        stop = free[25:29]
        cut = Caller(thread, Request("a", request.prompt, 60, (stop, "never there"))).wait()
        assert cut.text() == free[: free.find(stop)] and cut.finish() == "stop"
        for end in range(1, 60):  # no piece ever holds the beginning of the stop string
            shown = "".join(piece.text for piece in cut.seen[0][:end])
            assert free.startswith(shown) and stop not in shown
    finally:
        thread.close()


def test_scores_are_the_models(llama: Path):
    loaded = load(str(llama))
    thread = ModelThread(loaded)
    try:
        prompt = _prompt(8, 3)
        caller = Caller(thread, Request("a", prompt, 5), best=3).wait()
        scores = [score for piece in caller.seen[0] for score in piece.scores]
        tokens = caller.tokens()
        with torch.inference_mode():
            model: Any = loaded.model
            logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for i, token in enumerate(tokens):
            assert abs(scores[i].logprob - float(logits[i, token])) < 1e-4
            assert [t for t, _ in scores[i].best] == logits[i].topk(3).indices.tolist()
            assert scores[i].best[0][0] == token
    finally:
        thread.close()


def test_a_cancelled_request_ends_at_once_and_frees_its_row(packed: Loaded):
    thread = ModelThread(packed, rows=1)
    try:
        endless = Caller(thread, Request("a", _prompt(4, 1), 120))
        endless.pieces.get(timeout=WAIT_S)
        endless.ticket.cancel()
        after = Caller(thread, Request("b", _prompt(4, 2), 3)).wait()
        assert len(after.tokens()) == 3
        endless.wait()
        assert endless.finish() == "cancelled" and len(endless.tokens()) < 119
    finally:
        thread.close()


def test_a_long_prompt_is_taken_in_pieces_while_others_go_on(packed: Loaded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("submodel.runtime.model_thread.PIECE", 8)
    thread = ModelThread(packed, rows=4)
    order: list[str] = []
    done = threading.Event()

    def note(name: str) -> Any:
        def emit(piece: Piece) -> None:
            order.append(name)
            if name == "long" and piece.finish:
                done.set()

        return emit

    try:
        thread.submit(Request("talker", _prompt(3, 1), 100), note("talker"), best=0)
        while not order:
            time.sleep(0.001)
        thread.submit(Request("long", _prompt(90, 2), 1), note("long"), best=0)
        thread.submit(Request("short", _prompt(4, 3), 1), note("short"), best=0)
        assert done.wait(WAIT_S)
        between = order[: order.index("long")]
        assert between.count("talker") >= 90 // 8 and "short" in between  # a step after every piece; turns are taken
    finally:
        thread.close()


@torch.inference_mode()
def test_pieces_of_a_prompt_are_the_whole(llama: Path):
    loaded = load(str(llama))
    prompt = list(_prompt(50, 4))
    _, whole = prefill(loaded, prompt, 60)
    cache = one_row(loaded, 60)
    found = [extend(loaded, cache, prompt[at : at + 16]) for at in range(0, 50, 16)]
    assert torch.allclose(found[-1], whole, atol=1e-4)


def test_what_cannot_be_answered_is_refused(packed: Loaded):
    thread = ModelThread(packed)
    assert thread.context == 128
    with pytest.raises(SubmodelError, match="at least one token"):
        thread.submit(Request("a", (), 3), print)
    with pytest.raises(SubmodelError, match="this model takes 128"):
        thread.submit(Request("a", _prompt(100, 1), 29), print)
    thread.close()
    with pytest.raises(RuntimeError):
        thread.submit(Request("a", (1,), 3), print)
    tight = ModelThread(packed, cache_bytes=1)
    assert tight.context < 1
    tight.close()


def test_a_request_that_fails_is_its_own_trouble(packed: Loaded):
    thread = ModelThread(packed)
    try:
        talker = Caller(thread, Request("a", _prompt(3, 1), 60))
        broken = Caller(thread, Request("b", (10_000,), 4)).wait()
        assert broken.finish() == "error"
        assert len(talker.wait().tokens()) == 60

        def gone(piece: Piece) -> None:
            raise RuntimeError("nobody listens")

        thread.submit(Request("c", _prompt(3, 1), 60), gone)
        assert len(Caller(thread, Request("d", _prompt(3, 1), 5)).wait().tokens()) == 5
    finally:
        thread.close()


def test_a_closed_model_tells_who_waits(packed: Loaded):
    thread = ModelThread(packed, rows=1)
    callers = [Caller(thread, Request(str(i), _prompt(4, i), 100)) for i in range(6)]
    thread.close()
    assert {caller.wait().finish() for caller in callers} <= {"cancelled", "length"}
    assert callers[-1].finish() == "cancelled"


def test_the_cache_grows_within_its_budget(packed: Loaded):
    """Requests that would not fit side by side wait for each other, and all are answered."""
    token = 2 * 3 * 2 * 6 * 2
    thread = ModelThread(packed, rows=8, cache_bytes=token * 256 * 2)
    try:
        callers = [Caller(thread, Request(str(i), _prompt(10 + i, i), 60)) for i in range(5)]
        seen = 0
        while any(not caller.ticket.unfinished == set() for caller in callers):
            scheduler = thread._scheduler
            seen = max(seen, scheduler.cache.rows * scheduler.cache.columns if scheduler else 0)
            time.sleep(0.001)
        assert all(len(caller.wait().tokens()) == 60 for caller in callers)
        assert 0 < seen <= 512
    finally:
        thread.close()


class _Bytes:
    """Decodes bytes as UTF-8."""

    def decode(self, tokens: list[int], **options: Any) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize("stops", [(), ("é!", "never"), ("ab",), ("漢字",)])
def test_text_comes_in_whole_characters(stops: tuple[str, ...]):
    text = "naïve é漢 aab é! 漢字 🎉 x"
    stream = TextStream(_Bytes(), [65] * 20, stops)
    shown, stopped = "", False
    for token in text.encode():
        piece, stopped = stream.put(token)
        assert "\ufffd" not in piece
        shown += piece
        if stopped:
            break
    shown += "" if stopped else stream.end()
    found = [text.find(stop) for stop in stops if stop in text]
    assert shown == text[: min(found)] if found else shown == text
    assert stopped == bool(found)


def test_bytes_that_are_no_character_are_shown_in_time():
    stream = TextStream(_Bytes(), [65])
    shown = "".join(stream.put(0xFF)[0] for _ in range(30)) + stream.end()
    assert shown == "\ufffd" * 30
