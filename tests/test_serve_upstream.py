"""The router in front of other engines: proxied whole and streamed, their errors told as ours."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from submodel.errors import SubmodelError
from submodel.serve.server import Server
from submodel.serve.upstream import parse_upstream
from tests import serving

HELLO: Any = [{"role": "user", "content": "hello"}]


class _Engine(BaseHTTPRequestHandler):
    """Answers as it is told to; keeps what it was asked."""

    behaviour = "well"
    asked: list[dict[str, Any]] = []

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "/models/exported"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        error = json.dumps({"error": {"message": "at /secret/path" if self.behaviour == "500" else "not so"}}).encode()
        if self.behaviour in ("400", "429", "500"):
            self._send(int(self.behaviour), error)
        elif self.behaviour == "nonsense":
            self._send(200, b"<html>")
        elif body.get("stream"):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
            choices = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in ("a", "b")]
            lines = [f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n" for choice in choices]
            self._send(200, "".join([": hello\n\n", *lines, "data: [DONE]\n\n"]).encode(), "text/event-stream")
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}
            whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}
            self._send(200, json.dumps(whole).encode())


@pytest.fixture
def engine() -> Iterator[type[_Engine]]:
    _Engine.behaviour = "well"
    _Engine.asked = []
    yield _Engine


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        upstreams = {"python": f"http://127.0.0.1:{http.server_port}/v1", "far": "http://127.0.0.1:9/v1"}
        with serving.running(store, upstreams=upstreams, upstream_key="theirs") as found:
            yield found
        http.shutdown()


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="ours", max_retries=0) as found:
        yield found


def test_requests_go_to_the_engine_as_they_are(client: OpenAI, engine: type[_Engine]):
    tools: Any = [{"type": "function", "function": {"name": "f"}}]  # what we do not offer, an engine may
    found = client.chat.completions.with_raw_response.create(
        model="python", messages=HELLO, temperature=0.5, max_tokens=7, tools=tools
    )
    assert found.headers["x-submodel-name"] == "python"
    answer = found.parse()
    assert (answer.model, answer.choices[0].message.content) == ("python", "ab")
    [asked] = engine.asked
    assert asked == {
        "path": "/v1/chat/completions",
        "key": "Bearer theirs",
        "model": "/models/exported",
        "messages": HELLO,
        "temperature": 0.5,
        "max_tokens": 7,
        "tools": tools,
    }


def test_auto_reaches_engines_and_streams(client: OpenAI, engine: type[_Engine]):
    messages: Any = [{"role": "user", "content": "def f(): what is this?"}]
    chunks = list(client.chat.completions.create(model="auto", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ab"
    assert {chunk.model for chunk in chunks} == {"python"} and engine.asked
    local = client.chat.completions.create(model="auto", messages=HELLO, max_tokens=2)
    assert local.model == "base" and len(engine.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "status", "says"),
    [("400", 400, "not so"), ("429", 429, "is busy"), ("500", 502, "answered 500"), ("nonsense", 502, "answered 200")],
)
def test_their_errors_are_told_as_ours(
    client: OpenAI, server: Server, engine: type[_Engine], behaviour: str, status: int, says: str, stream: bool
):
    if stream and behaviour == "nonsense":
        pytest.skip("a stream of nothing")
    engine.behaviour = behaviour
    with pytest.raises(openai.APIStatusError, match=says) as refused:
        client.chat.completions.create(model="python", messages=HELLO, stream=stream)
    assert refused.value.status_code == status and "/secret" not in str(refused.value)
    assert server.service.requests.active == 0


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    "value", ["NaN", "-Infinity", "1e999", '"\\ud800"', '{"\\ud800": 1}', "9" * 4000, "[" * 90 + "]" * 90]
)
def test_what_an_engine_cannot_be_sent_is_refused(server: Server, engine: type[_Engine], value: str, stream: str):
    """Fields that we do not know go to engines as they came, if they can be written as JSON at all."""
    body = f'{{"model": "python", "messages": [], "stream": {stream}, "x": {value}}}'.replace(
        "[]", json.dumps(HELLO), 1
    )
    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert response.status_code in (200, 400), response.text
    assert (response.status_code == 200) == bool(engine.asked)
    assert (response.status_code == 400) == ("ud800" in value)


def test_an_engine_that_is_not_there(client: OpenAI, server: Server):
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError, match="cannot be reached") as refused:
            client.chat.completions.create(model="far", messages=HELLO, stream=stream)
        assert refused.value.status_code == 502
    listed = httpx2.get(f"{server.url}/v1/models/far").json()["submodel"]
    assert listed == {"upstream": True, "resident": False} and server.service.requests.active == 0


@pytest.mark.parametrize(
    "spec", ["python", "python=", "python=file:///etc/passwd", "python=localhost:1", "a b=http://x"]
)
def test_upstreams_are_names_and_urls(spec: str):
    with pytest.raises(SubmodelError):
        parse_upstream(spec)
    assert parse_upstream("python=http://host:1/v1/") == ("python", "http://host:1/v1")
