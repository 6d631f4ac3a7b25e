"""The server through the official client: every parameter, streamed and whole, and what goes wrong."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from submodel.errors import SubmodelError
from submodel.serve import server as server_module
from submodel.serve.access import Guard, Limits
from submodel.serve.registry import PackedRegistry
from submodel.serve.server import Server, Settings
from tests import serving
from tests.test_packed_models import store_of

HELLO: Any = [{"role": "user", "content": "hello there"}]
GREEDY: Any = {"temperature": 0}


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as found:
        yield found


def _client(server: Server, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60, **options)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with _client(server) as found:
        yield found


@pytest.fixture(scope="module")
def raw(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as found:
        yield found


def quiet(server: Server) -> None:
    """Waits until nothing is answered any more."""
    end = time.monotonic() + 20
    while server.service.requests.active or any(e.users for e in server.service.models._entries.values()):
        assert time.monotonic() < end, "requests that nobody waits for go on"
        time.sleep(0.01)


def test_models_are_listed(client: OpenAI, raw: httpx2.Client):
    assert [model.id for model in client.models.list()][:2] == ["auto", "base"]
    assert {model.id for model in client.models.list()} == {"auto", "base", *serving.SUBMODELS}
    about = raw.get("/v1/models/python").json()["submodel"]
    assert about["sparsity"] == 0.5 and about["mask_bytes"] > 0 and about["size_bytes"] > 0
    assert client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_chat_is_answered(client: OpenAI):
    found = client.chat.completions.create(model="python", messages=HELLO, max_tokens=12, **GREEDY)
    assert found.model == "python" and found.object == "chat.completion"
    assert found.choices[0].message.role == "assistant" and found.choices[0].message.content
    assert found.choices[0].finish_reason == "length"
    assert found.usage and (found.usage.completion_tokens, found.usage.prompt_tokens) == (12, 29)
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "text", "text": " there"}]}]
    same = client.chat.completions.create(model="python", messages=parts, max_completion_tokens=12, **GREEDY)
    assert same.choices[0].message.content == found.choices[0].message.content
    other = client.chat.completions.create(model="java", messages=HELLO, max_tokens=12, **GREEDY)
    assert other.choices[0].message.content != found.choices[0].message.content


def test_a_stream_is_the_whole(client: OpenAI):
    settings: Any = {"model": "java", "messages": HELLO, "max_tokens": 30, "n": 2, "seed": 3}
    whole = client.chat.completions.create(**settings)
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(**settings, stream=True, stream_options=options))
    texts, finishes = ["", ""], [None, None]
    for chunk in chunks[:-1]:
        assert chunk.usage is None and chunk.id == chunks[0].id
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]  # type: ignore[assignment]
    assert texts == [choice.message.content for choice in whole.choices] and texts[0] != texts[1]
    assert finishes == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    plain = list(client.chat.completions.create(**settings, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)


def test_seeds_temperature_and_nucleus(client: OpenAI):
    def ask(**settings: Any) -> str | None:
        found = client.chat.completions.create(model="maths", messages=HELLO, max_tokens=20, **settings)
        return found.choices[0].message.content

    assert ask(seed=5) == ask(seed=5) == ask(seed=5, temperature=1.0, top_p=1.0)
    assert len({ask(seed=seed) for seed in range(4)}) > 1
    assert len({ask() for _ in range(4)}) > 1  # no seed: another every time
    assert ask(temperature=0) == ask(temperature=0, seed=9) == ask(seed=1, top_p=1e-6)
    many = client.chat.completions.create(model="maths", messages=HELLO, max_tokens=20, seed=5, n=3)
    assert many.choices[0].message.content == ask(seed=5)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    assert many.choices[2].message.content == ask(seed=7)


def test_stop_strings(client: OpenAI):
    free = client.completions.create(model="python", prompt="some words", max_tokens=60, **GREEDY).choices[0]
    stop = free.text[30:33]
    for given in (stop, [stop, "never"]):
        cut = client.completions.create(model="python", prompt="some words", max_tokens=60, stop=given, **GREEDY)
        assert cut.choices[0].text == free.text[: free.text.find(stop)]
        assert cut.choices[0].finish_reason == "stop"


def test_log_probabilities(client: OpenAI):
    settings: Any = {"model": "java", "max_tokens": 6, **GREEDY}
    chat = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=3, **settings).choices[0]
    assert chat.logprobs and chat.logprobs.content and len(chat.logprobs.content) == 6
    for token in chat.logprobs.content:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    stream = client.chat.completions.create(messages=HELLO, logprobs=True, top_logprobs=3, stream=True, **settings)
    streamed = [
        entry
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for entry in choice.logprobs.content or []
    ]
    assert streamed == chat.logprobs.content
    plain = client.completions.create(prompt="hello", logprobs=2, **settings).choices[0]
    assert plain.logprobs and plain.logprobs.tokens and plain.logprobs.top_logprobs and plain.logprobs.text_offset
    assert len(plain.logprobs.tokens) == 6 and len(plain.logprobs.top_logprobs[0]) == 2
    assert plain.logprobs.text_offset[0] == 0
    none = client.chat.completions.create(messages=HELLO, **settings).choices[0]
    assert none.logprobs is None


def test_plain_completions_of_text_and_tokens(client: OpenAI, server: Server):
    settings: Any = {"model": "base", "max_tokens": 8, **GREEDY}
    text = client.completions.create(prompt="ab", **settings).choices[0].text
    ids = server.service.prompts.text("ab").tokens
    assert client.completions.create(prompt=list(ids), **settings).choices[0].text == text
    many = client.completions.create(prompt=["ab", "xyz"], n=2, **settings)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert [many.choices[i].text for i in (0, 1)] == [text, text]
    tokens = client.completions.create(prompt=[[66, 67], [3]], **settings)
    assert len(tokens.choices) == 2
    assert len(client.completions.create(model="base", prompt="", **GREEDY).choices) == 1  # begins with BOS
    assert client.completions.create(model="base", prompt="a", **GREEDY).usage.completion_tokens == 16  # type: ignore[union-attr]


def test_the_middle_is_filled_in(client: OpenAI):
    """As an editor asks: with `suffix`, or with the base's tokens in the prompt and stop strings of its own."""
    prefix, suffix = "def add(a, b):\n    ", "\n\nprint(add(1, 2))\n"
    settings: Any = {"model": "python", "max_tokens": 24, **GREEDY}
    asked = client.completions.create(prompt=prefix, suffix=suffix, **settings)
    first, second, middle = serving.FIM
    written = client.completions.create(prompt=f"{first}{prefix}{second}{suffix}{middle}", **settings)
    assert asked.choices[0].text == written.choices[0].text
    assert asked.usage and asked.usage.prompt_tokens == len((prefix + suffix).encode()) + 3
    # Continue: streamed, with the template's tokens as stop strings; Tabby: one string, low temperature
    stops = [*serving.FIM, "<|endoftext|>", "\n\n"]
    chunks = client.completions.create(
        prompt=f"{first}{prefix}{second}{suffix}{middle}",
        model="python",
        max_tokens=24,
        stop=stops,
        stream=True,
        **GREEDY,
    )
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert asked.choices[0].text.startswith(text)
    with pytest.raises(openai.BadRequestError, match="goes with a prompt of text"):
        client.completions.create(model="python", prompt=[1, 2], suffix="x")


def _growing(client: OpenAI) -> Iterator[tuple[Any, int]]:
    """Two turns of a chat, a file that is typed: answers and their cached tokens."""
    messages: list[Any] = [{"role": "system", "content": "Answer in few words. " * 9}, *HELLO]
    settings: Any = {"model": "python", "max_tokens": 8, **GREEDY}
    for question in ("and now, please?", "why?"):
        answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=2, **settings)
        assert answer.usage and answer.usage.prompt_tokens_details
        yield answer.choices[0], answer.usage.prompt_tokens_details.cached_tokens or 0
        messages += [{"role": "assistant", "content": "so"}, {"role": "user", "content": question}]
    for typed in ("def", "def g(", "def g(y"):
        file = "def f(x):\n    return x + 1\n\n\n" * 10 + typed
        found = client.completions.create(prompt=file, suffix="\nprint(g(2))", logprobs=2, **settings)
        assert found.usage and found.usage.prompt_tokens_details
        yield found.choices[0], found.usage.prompt_tokens_details.cached_tokens or 0


def test_prompts_that_begin_alike_are_not_computed_twice(store: Path, monkeypatch: pytest.MonkeyPatch):
    """The answers are those of a server that computes everything; usage and metrics say what was there."""
    with serving.running(store) as server, _client(server) as client:
        first, second = list(_growing(client)), list(_growing(client))
        assert [cached for _, cached in first] == [0, 128, 0, 256, 256]
        assert [cached for _, cached in second] == [128, 256, 256, 256, 256]
        text = "def f(x):\n" * 20
        options: Any = {"model": "java", "prompt": text, "max_tokens": 3, "stream_options": {"include_usage": True}}
        for expected in (0, 128):
            *_, last = client.completions.create(**options, stream=True)
            assert last.usage and last.usage.prompt_tokens_details
            assert last.usage.prompt_tokens_details.cached_tokens == expected
        other = client.completions.create(model="maths", prompt=text, max_tokens=3)  # each model keeps its own
        assert other.usage and other.usage.prompt_tokens_details
        assert other.usage.prompt_tokens_details.cached_tokens == 0
        quiet(server)
        page = httpx2.get(f"{server.url}/metrics").text
        assert f'submodel_cached_tokens_total{{model="python"}} {float(640 + 1152)}' in page
    monkeypatch.setattr("submodel.runtime.model_thread.ModelThread._reuse", lambda live, prompt: None)
    with serving.running(store) as server, _client(server) as client:
        plain = list(_growing(client))
    assert [cached for _, cached in plain] == [0] * 5
    assert [answer for answer, _ in plain] == [answer for answer, _ in first] == [answer for answer, _ in second]


def test_a_base_without_such_tokens_says_so(tmp_path: Path):
    plain = Path(store_of(tmp_path, "llama").rpartition("@")[0])
    with serving.running(plain) as server, _client(server) as client:
        with pytest.raises(openai.BadRequestError, match="no fill-in-the-middle tokens"):
            client.completions.create(model="half", prompt="a", suffix="b")
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="half", messages=HELLO)
        assert client.completions.create(model="half", prompt="a").choices[0].text is not None


def test_auto_goes_where_the_router_says(client: OpenAI, raw: httpx2.Client):
    messages: Any = [{"role": "user", "content": "def fib(n): please"}]
    found = client.chat.completions.with_raw_response.create(model="auto", messages=messages, max_tokens=3)
    assert found.headers["x-submodel-name"] == "python" and found.headers["x-submodel-signal"] == "detector"
    assert float(found.headers["x-submodel-confidence"]) == 0.9 and found.parse().model == "python"
    streamed = client.chat.completions.create(model="auto", messages=HELLO, max_tokens=3, stream=True)
    assert streamed.response.headers["x-submodel-name"] == "base"
    assert {chunk.model for chunk in streamed} == {"base"}
    for headers, name in [
        ({"X-Submodel-File": "src/A.java"}, "java"),
        ({"X-Submodel-Language": "maths"}, "maths"),
        ({"X-Submodel-File": "a.unknown"}, "base"),
        ({"X-Submodel-Language": "nobody"}, "base"),
    ]:
        plain = client.completions.create(model="auto", prompt="x", max_tokens=1, extra_headers=headers)
        assert plain.model == name
    first, second, middle = serving.FIM
    body = {"prompt": f"{first}class A {{{second}}}{middle}"}
    decided = raw.post("/v1/route", json=body).json()
    assert decided == {"model": "java", "signal": "fim", "confidence": 0.9, "scores": {"java": 0.9}}
    assert raw.post("/v1/route", json={"messages": HELLO}).json()["model"] == "base"
    assert raw.post("/v1/route", json={"prompt": "x", "file": "a.py"}).json()["signal"] == "file"
    assert raw.post("/v1/route", json={}).status_code == 400
    for hint in ("file", "language"):  # names are remembered, so they have to be short
        assert raw.post("/v1/route", json={"prompt": "x", hint: "x" * 1025}).status_code == 400
        long = {f"X-Submodel-{hint}": "x" * 1025}
        assert raw.post("/v1/route", json={"prompt": "x"}, headers=long).status_code == 400


def test_a_default_takes_what_the_router_gives_to_none(store: Path):
    with serving.running(store, default="maths") as server, _client(server) as client:
        assert client.completions.create(model="auto", prompt="x", max_tokens=1).model == "maths"
    with pytest.raises(SubmodelError, match="--default nobody"):
        Server(PackedRegistry(store, "bf16"), serving.choose, Settings(port=0, default="nobody"))


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "nobody"}, 404, "does not exist"),
        ({"model": "../../etc/passwd"}, 404, "does not exist"),
        ({"model": "store@python"}, 404, "does not exist"),
        ({"model": "x" * 300}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "no tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "only text"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**30}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 17}, 400, "allowed at once"),
        ({"n": 1000}, 400, "n"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"stop": "x" * 300}, 400, "stop"),
        ({"seed": 1 << 64}, 400, "seed"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"functions": [{"name": "f"}]}, 400, "functions is not offered"),
        ({"response_format": {"type": "xml"}}, 400, "response_format"),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "takes 512"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, ""),
    ],
)
def test_bad_requests_are_refused_in_openais_shape(raw: httpx2.Client, change: dict[str, Any], status: int, says: str):
    body = json.dumps({"model": "python", "messages": HELLO, "max_tokens": 4, **change})
    response = raw.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert (response.status_code, set(error)) == (status, {"message", "type", "param", "code"})
    assert says in error["message"], error


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b'{"model": NaN}', 400),
        (b"\xff\xfe", 400),
        (b"null", 400),
        (b"[1, 2]", 400),
        (b'{"prompt": [], "model": "base"}', 400),
        (b'{"prompt": [""], "model": "base"}', 200),
        (b'{"prompt": [[]], "model": "base"}', 400),
        (b'{"prompt": [999999], "model": "base"}', 400),
        (b'{"prompt": [-1], "model": "base"}', 400),
        (b'{"prompt": [[1], ["a"]], "model": "base"}', 400),
        (b'{"prompt": [1.5], "model": "base"}', 400),
        (b'{"prompt": "a", "model": "base", "seed": 1' + b"0" * 5000 + b"}", 400),
        (b'{"prompt": "a", "model": "base", "unknown": {"x": [1]}, "user": "me"}', 200),
        (b'{"prompt": "a", "model": "base", "stream": null, "stop": null, "n": null, "seed": null}', 200),
    ],
)
def test_malformed_bodies(raw: httpx2.Client, body: bytes, status: int):
    response = raw.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert status == 200 or response.json()["error"]["message"]


def test_other_paths_and_methods(raw: httpx2.Client):
    assert raw.get("/v1/nothing").json()["error"]["type"] == "not_found_error"
    assert raw.get("/v1/chat/completions").status_code == 405
    assert raw.get("/docs").status_code == 404
    assert raw.get("/health").json() == {"status": "ok"}
    assert raw.get("/openapi.json").json()["paths"]["/v1/completions"]
    for path in ("/", "/page.css", "/page.js"):
        page = raw.get(path)
        assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics_count(client: OpenAI, raw: httpx2.Client):
    client.completions.create(model="java", prompt="abc", max_tokens=5, **GREEDY)
    raw.get("/v1/made-up/path")
    page = raw.get("/metrics").text
    for line in (
        'submodel_answers_total{path="/v1/completions",status="200"}',
        'submodel_tokens_total{kind="completion",model="java"}',
        'submodel_first_token_seconds_count{model="java"}',
        'submodel_resident_bytes{model="java"}',
        "submodel_loads ",
    ):
        assert line in page, line
    assert "made-up" not in page


def test_strangers_are_turned_away(raw: httpx2.Client, store: Path):
    body = {"model": "base", "prompt": "a"}
    assert raw.post("/v1/completions", json=body, headers={"Host": "evil.example"}).status_code == 403
    assert raw.get("/v1/models", headers={"Host": "localhost:1234"}).status_code == 200
    text = {"Content-Type": "text/plain"}
    assert raw.post("/v1/completions", content=json.dumps(body), headers=text).status_code == 415
    preflight = raw.options("/v1/completions", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 405 and "access-control-allow-origin" not in preflight.headers
    with pytest.raises(SubmodelError, match="give an --api-key"):
        Server(PackedRegistry(store, "bf16"), serving.choose, Settings(host="0.0.0.0", port=0))


def test_a_key_is_asked_for(store: Path):
    with serving.running(store, api_key="s3cret") as server:
        for key in ("wrong", "s3cre", "s3cret2", "ünfug"):
            headers = [(b"Authorization", f"Bearer {key}".encode())]
            response = httpx2.get(f"{server.url}/v1/models", headers=headers)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert httpx2.get(f"{server.url}/metrics").status_code == 401
        for path in ("/", "/page.css", "/page.js", "/health"):
            assert httpx2.get(f"{server.url}{path}").status_code == 200
        with OpenAI(base_url=f"{server.url}/v1", api_key="s3cret") as client:
            assert client.models.list().data


def test_large_and_slow_bodies_are_cut(store: Path):
    with serving.running(store, limits=Limits(body_bytes=1000, body_s=0.3)) as server:
        big = json.dumps({"model": "base", "prompt": "x" * 2000}).encode()
        headers = {"Content-Type": "application/json"}
        assert httpx2.post(f"{server.url}/v1/completions", content=big, headers=headers).status_code == 413

        def chunks() -> Iterator[bytes]:
            for at in range(0, len(big), 100):
                yield big[at : at + 100]

        assert httpx2.post(f"{server.url}/v1/completions", content=chunks(), headers=headers).status_code == 413
        with socket.create_connection(server._socket.getsockname()) as slow:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            slow.sendall(f"{head}Content-Length: 500\r\n\r\n{{".encode())
            slow.settimeout(10)
            assert b" 408 " in slow.recv(1000)


def test_many_clients_get_what_one_gets(server: Server, client: OpenAI):
    """Greedy answers under concurrency, over models, with cancelled streams between them."""

    def ask(index: int) -> str:
        model = ("base", *serving.SUBMODELS)[index % 4]
        found = client.completions.create(
            model=model, prompt="word " * (1 + index % 7), max_tokens=10 + index % 23, **GREEDY
        )
        return found.choices[0].text

    def leave(index: int) -> None:
        with client.completions.create(model="java", prompt="x" * index, max_tokens=300, stream=True) as chunks:
            for _ in zip(range(index % 5), chunks, strict=False):
                pass

    alone = [ask(index) for index in range(28)]
    with ThreadPoolExecutor(16) as pool:
        leaving = [pool.submit(leave, index) for index in range(1, 20)]
        assert list(pool.map(ask, range(28))) == alone
        for one in leaving:
            one.result()
    quiet(server)


def test_a_client_that_goes_away_stops_its_generation(server: Server, client: OpenAI):
    counter = server.service.meters.tokens.labels("maths", "completion")
    client.completions.create(model="maths", prompt="warm", max_tokens=1)
    before = counter._value.get()
    with client.completions.create(model="maths", prompt="x", max_tokens=490, stream=True, n=4, **GREEDY) as chunks:
        next(iter(chunks))
    quiet(server)
    assert counter._value.get() - before < 4 * 490
    impatient = httpx2.Client(base_url=server.url, timeout=0.05)
    for _ in range(5):
        with pytest.raises(httpx2.TimeoutException):
            impatient.post("/v1/completions", json={"model": "maths", "prompt": "x", "max_tokens": 490, "n": 8})
    quiet(server)


def test_a_slow_reader_holds_nobody_up(store: Path):
    with serving.running(store, limits=Limits(write_s=0.5)) as server, _client(server) as client:
        expected = client.completions.create(model="base", prompt="abc", max_tokens=20, **GREEDY).choices[0].text
        sleepers = []
        for _ in range(4):
            sleeper = socket.create_connection(server._socket.getsockname())
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            body = json.dumps(
                {"model": "base", "prompt": "y", "max_tokens": 99, "n": 4, "stream": True, "logprobs": 20}
            )
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            sleeper.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            sleepers.append(sleeper)
        for _ in range(5):
            found = client.completions.create(model="base", prompt="abc", max_tokens=20, **GREEDY).choices[0].text
            assert found == expected
        quiet(server)
        for sleeper in sleepers:
            sleeper.close()


def test_a_full_house_says_when_to_come_back(store: Path, monkeypatch: pytest.MonkeyPatch):
    with serving.running(store, limits=Limits(requests=2)) as server, _client(server) as client:
        inside, opened = threading.Barrier(3), threading.Event()
        written = server.service.prompts.text

        def held(prompt: str) -> Any:
            inside.wait(20)
            assert opened.wait(20)
            return written(prompt)

        monkeypatch.setattr(server.service.prompts, "text", held)
        with ThreadPoolExecutor(2) as pool:
            holders = [pool.submit(client.completions.create, model="base", prompt="x") for _ in range(2)]
            inside.wait(20)
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(model="base", prompt="x")
            assert refused.value.response.headers["retry-after"] == "1"
            opened.set()
            for holder in holders:
                assert holder.result().choices[0].text
        quiet(server)
        monkeypatch.undo()
        assert client.completions.create(model="base", prompt="x").choices[0].text


def test_an_answer_that_takes_too_long_is_ended(store: Path):
    with serving.running(store, limits=Limits(answer_s=0.05)) as server, _client(server) as client:
        client.completions.create(model="base", prompt="x", max_tokens=1)
        with pytest.raises(openai.APIStatusError) as refused:
            client.completions.create(model="base", prompt="x", max_tokens=500, n=16)
        assert refused.value.status_code == 503
        body = {"model": "base", "prompt": "x", "max_tokens": 500, "n": 16, "stream": True}
        lines = httpx2.post(f"{server.url}/v1/completions", json=body).text.strip().split("\n\n")
        assert "error" in json.loads(lines[-2].removeprefix("data: ")) and lines[-1] == "data: [DONE]"
        quiet(server)


def test_stopping_ends_what_is_under_way(store: Path):
    with serving.running(store) as server:
        client = _client(server)
        results: list[Any] = []

        def ask() -> None:
            results.append(client.completions.create(model="base", prompt="x", max_tokens=400, **GREEDY))

        thread = threading.Thread(target=ask)
        thread.start()
        while not server.service.requests.active and not results:
            time.sleep(0.001)
        server.stop()
        thread.join(30)
        assert results and results[0].usage.completion_tokens == 400
        client.close()


def test_a_reader_that_takes_nothing_is_let_go():
    """A piece that is not taken in time ends the answer, without an error."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})
        raise AssertionError("it was taken")

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if len(sent) == 2:
            await asyncio.sleep(60)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"[::1]:80")]}
    asyncio.run(Guard(app, Limits(write_s=0.05), None, True)(scope, receive, send))
    assert sent == ["http.response.start", "http.response.body"]


def test_a_connection_that_says_nothing_is_closed(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_module, "_HEAD_S", 0.2)
    with serving.running(store) as server:
        for said in (b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"):
            with socket.create_connection(server._socket.getsockname()) as mute:
                mute.sendall(said)
                mute.settimeout(20)
                while mute.recv(4096):
                    pass
