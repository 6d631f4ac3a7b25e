"""No answer is lost, doubled, mixed or cut: thousands of tiny streams, every choice of which is counted."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from benchmarks import tiny_streams
from submodel.base import native
from submodel.runtime import Loaded, Request, load
from submodel.runtime.continuation import Piece
from submodel.runtime.model_thread import ModelThread
from submodel.runtime.text import Prompt
from submodel.serve.generation import Generation
from submodel.serve.server import Server
from tests import serving
from tests.test_packed_models import store_of
from tests.test_serve import quiet

STREAMS = 2000
CLIENTS = 12
WAIT_S = 60


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as running:
        yield running


@pytest.fixture(scope="module")
def known(server: Server) -> list[tiny_streams.Case]:
    return tiny_streams.cases(server.url, ["base", *serving.SUBMODELS])


def test_every_choice_of_thousands_of_streams_comes_once(
    server: Server, known: list[tiny_streams.Case], monkeypatch: pytest.MonkeyPatch
):
    """With clients that leave, read slowly and send too much, while the event loop is busy with something else."""
    loops: list[asyncio.AbstractEventLoop] = []
    completion = server.service.completion

    async def noted(*arguments: Any) -> Any:
        loops[:] = [asyncio.get_running_loop()]
        return await completion(*arguments)

    monkeypatch.setattr(server.service, "completion", noted)
    ended = threading.Event()

    def keep_busy() -> None:
        rng = random.Random(0)
        while not ended.wait(rng.choice([0.01, 0.05, 0.2])):
            for loop in loops:
                loop.call_soon_threadsafe(time.sleep, rng.choice([0.005, 0.02, 0.1]))

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        kinds, faults = tiny_streams.run(server.url, known, STREAMS, CLIENTS)
    finally:
        ended.set()
        busy.join()
    assert not faults, f"{len(faults)} of {sum(kinds.values())}: {faults[:3]}"
    assert sum(kinds.values()) == STREAMS and min(kinds.values()) > 5
    quiet(server)


def test_a_stream_of_one_token_is_not_empty(server: Server):
    """Chat as well, through the official client, with usage: one end a choice, and the role once."""
    options: Any = {"model": "java", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 1}
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=WAIT_S) as client:
        for n in (1, 4, 8) * 10:
            chunks = list(client.chat.completions.create(messages=[{"role": "user", "content": "hi"}], n=n, **options))
            choices = [choice for chunk in chunks for choice in chunk.choices]
            assert sorted(choice.index for choice in choices if choice.finish_reason) == list(range(n))
            assert sorted(choice.index for choice in choices if choice.delta.role) == list(range(n))
            assert chunks[-1].usage and chunks[-1].usage.completion_tokens == n


def test_a_reader_that_takes_nothing_for_a_while_gets_it_all(server: Server, known: list[tiny_streams.Case]):
    """Everything is generated before the first byte is read."""
    case = max(known, key=lambda case: len(case.answers))
    body = json.dumps({**case.body, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(server._socket.getsockname()) as sleeper:
        sleeper.sendall(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)
        quiet(server)
        time.sleep(0.2)
        data = b""
        while received := sleeper.recv(1 << 16):
            data += received
    reader = tiny_streams.StreamReader()
    for line in data.decode().split("\r\n\r\n", 1)[1].splitlines():
        if line.startswith("data: "):
            reader.take(line)
    assert reader.check(case.answers, complete=True) == []


# one request on its way, without HTTP


class _Scripted:
    """Stands for a model's thread: says what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.emitters: list[Any] = []

    def submit(self, request: Request, emit: Any, best: int | None, score_prompt: bool) -> Any:
        self.emitters.append(emit)
        return type("Ticket", (), {"request": request, "cached": 0, "cancel": lambda self: None})()


@pytest.mark.parametrize("ended", [0, 1, 5, 8])
def test_choices_that_end_before_anyone_reads_are_read(ended: int):
    """The case of a busy event loop: some or all choices have ended when reading begins."""

    async def run() -> tuple[list[Piece], int]:
        model, done = _Scripted(), []
        generation = Generation(model, lambda: done.append(1), 20)  # type: ignore[arg-type]
        generation.start([Prompt((1,)), Prompt((2,))], Request("", (), 4, seeds=(0, 1, 2, 3)), None)

        def say(choice: int) -> None:
            model.emitters[choice // 4](Piece(choice % 4, "a", (5,)))
            model.emitters[choice // 4](Piece(choice % 4, "b", (6,), (), "length"))

        for choice in range(ended):
            say(choice)
        await asyncio.sleep(0.01)  # all of it is taken
        asyncio.get_running_loop().call_later(0.01, lambda: [say(choice) for choice in range(ended, 8)])
        pieces = [piece async for batch in generation for piece in batch]
        return pieces, len(done)

    pieces, done = asyncio.run(asyncio.wait_for(run(), 20))
    texts = {choice: "".join(p.text for p in pieces if p.sample == choice) for choice in range(8)}
    assert texts == dict.fromkeys(range(8), "ab") and done == 1
    assert sorted(piece.sample for piece in pieces if piece.finish) == list(range(8))


@pytest.fixture
def packed(tmp_path: Path) -> Loaded:
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    return load(store_of(tmp_path, "llama"), weight_format="bf16")


def test_every_sample_ends_once_whenever_it_is_cancelled(packed: Loaded):
    """Cancelled from another thread at any moment: each sample's end comes once, and nothing after it."""
    thread = ModelThread(packed, rows=3)
    rng = random.Random(0)
    lists: list[tuple[list[Piece], int, Any]] = []
    try:
        for index in range(300):
            n = rng.choice([1, 2, 5, 8])
            pieces: list[Piece] = []
            request = Request(str(index), (3, 5, 7), rng.randint(1, 6), seeds=tuple(range(n)))
            ticket = thread.submit(request, pieces.append)
            lists.append((pieces, n, ticket))
            if rng.random() < 0.5:
                threading.Timer(rng.random() * 0.02, ticket.cancel).start()
            if rng.random() < 0.2:
                time.sleep(0.004)
        end = time.monotonic() + WAIT_S
        while any(ticket.unfinished for _, _, ticket in lists):
            assert time.monotonic() < end, "a request that never ends"
            time.sleep(0.005)
    finally:
        thread.close()
    for pieces, n, _ in lists:
        for sample in range(n):
            said = [piece for piece in pieces if piece.sample == sample]
            assert [bool(piece.finish) for piece in said] == [False] * (len(said) - 1) + [True]


def test_a_request_that_comes_while_a_step_fails_is_answered(packed: Loaded, monkeypatch: pytest.MonkeyPatch):
    """What a failure ends is what was there when it happened."""
    thread = ModelThread(packed, rows=2)
    late: list[Piece] = []
    fail = thread._fail

    def failing() -> None:
        monkeypatch.setattr(thread, "_turn", turn)
        thread.submit(Request("late", (3, 5), 2), late.append)
        fail()

    turn = thread._turn

    def broken() -> None:
        raise MemoryError

    monkeypatch.setattr(thread, "_fail", failing)
    monkeypatch.setattr(thread, "_turn", broken)
    early: list[Piece] = []
    thread.submit(Request("early", (3, 5), 2), early.append)
    try:
        end = time.monotonic() + WAIT_S
        while not (late and late[-1].finish):
            assert time.monotonic() < end, "the late one is lost"
            time.sleep(0.005)
        assert early[-1].finish == "error" and late[-1].finish == "length"
    finally:
        thread.close()


def test_a_prompt_that_finds_no_memory_is_not_lost(packed: Loaded, monkeypatch: pytest.MonkeyPatch):
    from submodel.runtime import model_thread

    made = iter([True, False, True, True, True])
    one_row = model_thread.one_row

    def scarce(*arguments: Any) -> Any:
        if not next(made):
            raise MemoryError
        return one_row(*arguments)

    monkeypatch.setattr(model_thread, "one_row", scarce)
    thread = ModelThread(packed, rows=2)
    answers: list[list[Piece]] = [[], [], []]
    try:
        for pieces in answers:
            thread.submit(replace(Request("", (3, 5), 2)), pieces.append)
        end = time.monotonic() + WAIT_S
        while not all(pieces and pieces[-1].finish for pieces in answers):
            assert time.monotonic() < end, "one is lost"
            time.sleep(0.005)
    finally:
        thread.close()
