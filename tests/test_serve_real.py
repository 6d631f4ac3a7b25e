"""The official client against a real model: every parameter, whole and streamed, and an editor's request.

The demo's 135M model by default; SUBMODEL_TEST_MODEL names another, such as one with fill-in-the-middle tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from submodel.base.opening import open_base
from submodel.calibration.middle import marks_of
from tests import serving
from tests.test_cli import run

MESSAGES: Any = [{"role": "user", "content": "Write a Python function that adds two numbers."}]
PREFIX, SUFFIX = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
STREAMED: Any = {"stream": True, "stream_options": {"include_usage": True}}

pytestmark = pytest.mark.real


@pytest.fixture
def client(real_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[OpenAI]:
    store = tmp_path / "store"
    model = str(real_model.resolve())
    options = ("--method", "magnitude", "--sparsity", "0.2", "--name", "python", "--no-routing", "--out", str(store))
    assert run(capsys, "extract", model, *options)[0] == 0
    with serving.running(store) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=300) as found:
            yield found


def _text(chunks: Any, chat: bool) -> tuple[list[str], Any]:
    texts = ["", ""]
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += (choice.delta.content if chat else choice.text) or ""
    return texts, usage


def test_every_parameter_on_a_real_model(client: OpenAI, real_model: Path):
    assert [model.id for model in client.models.list()] == ["auto", "base", "python"]
    for model in ("base", "python"):
        asked: Any = {"model": model, "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 16}
        whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
        [choice] = whole.choices
        assert choice.message.content and choice.logprobs and choice.logprobs.content
        assert whole.model == model and whole.usage and whole.usage.completion_tokens == len(choice.logprobs.content)
        assert all(token.logprob == token.top_logprobs[0].logprob for token in choice.logprobs.content)
        [text, _], usage = _text(client.chat.completions.create(**asked, **STREAMED), chat=True)
        assert text == choice.message.content and usage.completion_tokens == whole.usage.completion_tokens
        stop = choice.message.content[5:8]
        cut = client.chat.completions.create(**asked, stop=stop).choices[0]
        assert cut.message.content == choice.message.content[: choice.message.content.find(stop)]
        drawn: Any = {**asked, "temperature": 0.8, "top_p": 0.9, "n": 2, "seed": 4}
        first, again = (client.chat.completions.create(**drawn) for _ in range(2))
        texts = [choice.message.content for choice in first.choices]
        assert texts == [choice.message.content for choice in again.choices] and texts[0] != texts[1]
        assert _text(client.chat.completions.create(**drawn, **STREAMED), chat=True)[0] == texts
    routed = client.chat.completions.create(model="auto", messages=MESSAGES, max_tokens=4, temperature=0)
    assert routed.model in ("base", "python")

    middle: Any = {"model": "python", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12, "temperature": 0}
    if marks_of(open_base(str(real_model.resolve())).tokenizer) is None:
        with pytest.raises(openai.BadRequestError, match="fill-in-the-middle"):
            client.completions.create(**middle)
    else:
        filled = client.completions.create(**middle).choices[0].text
        assert filled and _text(client.completions.create(**middle, **STREAMED), chat=False)[0][0] == filled
        assert "a + b" in client.completions.create(**{**middle, "model": "base"}).choices[0].text
    plain = client.completions.create(model="python", prompt="def add(", max_tokens=8, temperature=0, logprobs=1)
    assert plain.choices[0].logprobs and len(plain.choices[0].logprobs.tokens or []) == 8
