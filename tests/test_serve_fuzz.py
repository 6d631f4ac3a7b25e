"""Requests made from the OpenAPI document, well-formed and not: answered as documented, in time, never with 500."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from submodel.serve.access import Limits
from submodel.serve.server import Server
from tests import serving

hypothesis: Any = pytest.importorskip("hypothesis", reason="no hypothesis: pip install schemathesis")
schemathesis: Any = pytest.importorskip("schemathesis", reason="no schemathesis: pip install schemathesis")

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402
from schemathesis.generation import GenerationMode  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

CASES = 30  # of each route and mode; the same ones every time
HANG_S = 20
BOUNDED: Any = {
    "max_examples": CASES,
    "deadline": None,
    "database": None,
    "derandomize": True,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
}
ROUTES = (
    "GET /health",
    "GET /metrics",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/route",
)
CHECKS = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
# a model that is there: most of what is made up names none, and gets no further
MODELS = st.sampled_from([None, "auto", "base", *serving.SUBMODELS])


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store, limits=Limits(tokens=4)) as found:
        yield found
        assert found.service.requests.active == 0


@pytest.fixture(scope="module")
def schema(server: Server) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=SchemathesisConfig())


def _sound(response: Any) -> None:
    """No failure of ours, and every refusal in OpenAI's shape."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_every_route_is_tried(schema: Any):
    operations = [found.ok() for found in schema.get_all_operations()]
    assert sorted(f"{one.method.upper()} {one.path}" for one in operations) == sorted(ROUTES)


@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("route", ROUTES)
def test_what_the_document_allows_and_what_it_does_not(schema: Any, route: str, mode: str):
    method, path = route.split()
    operation = schema[path][method]
    if mode == "negative" and not operation.body:
        pytest.skip("a request of this kind has nothing to get wrong")

    @settings(**BOUNDED)
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)), model=MODELS)
    def run(case: Any, model: str | None) -> None:
        if model and isinstance(case.body, dict):
            case.body["model"] = model
        response = case.call(timeout=HANG_S)
        _sound(response)
        case.validate_response(response, checks=CHECKS)

    run()


FIELDS = st.sampled_from(
    ["messages", "role", "content", "type", "text", "prompt", "suffix", "stop", "n", "seed", "logprobs", "stream"]
    + ["top_logprobs", "temperature", "top_p", "max_tokens", "stream_options", "include_usage", "file", "language"]
    + ["tools", "tool_choice", "function", "parameters", "tool_calls", "arguments", "response_format", "json_schema"]
    + ["schema", "logit_bias", "frequency_penalty", "repetition_penalty", "top_k", "echo", "best_of", "name"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=6,
)


@pytest.mark.parametrize("path", [route.split()[1] for route in ROUTES if route.startswith("POST")])
def test_bodies_of_any_kind(server: Server, path: str):
    headers = {"Content-Type": "application/json"}

    @settings(**BOUNDED)
    @given(
        body=st.binary(max_size=40) | JSON.map(json.dumps) | st.dictionaries(FIELDS, JSON, max_size=4).map(json.dumps)
    )
    def run(body: bytes | str) -> None:
        _sound(http.post(path, content=body, headers=headers))

    with httpx2.Client(base_url=server.url, timeout=HANG_S) as http:
        run()
        assert http.get("/health").json() == {"status": "ok"}
