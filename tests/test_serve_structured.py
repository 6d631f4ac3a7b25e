"""Answers that keep to a JSON schema or call a tool, through the official client; and tools in a conversation."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import numpy as np
import openai
import pytest
import torch
from openai import OpenAI

from submodel.base import native
from submodel.errors import SubmodelError
from submodel.prune.vocabulary import Vocabulary
from submodel.runtime import Loaded, Request, generate_batch, load
from submodel.runtime.forward import end_tokens
from submodel.runtime.grammar import Grammars
from submodel.runtime.model_thread import ModelThread
from submodel.runtime.processors import Processors
from submodel.serve.openai.calls import CallReader
from submodel.serve.openai.prompts import RequestPrompts
from submodel.serve.openai.schema import ChatMessage, ChatRequest
from submodel.serve.openai.tools import Tools, answer_grammar, tags_of, tools_of
from submodel.serve.refusal import Refusal
from submodel.serve.server import Server
from tests import serving, tiny
from tests.test_model_thread import Caller
from tests.test_serve_prompts import spaced_tokenizer

HELLO: Any = [{"role": "user", "content": "hello there"}]
GREEDY: Any = {"temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["a", "b", "größer"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "kind", "count", "tags"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
TOOLS[1]["function"]["parameters"] = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for tools in a prompt of bytes."""
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    return serving.make_store(tmp_path_factory.mktemp("structured"), context=4096)


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


def _format(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


# schemas


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {
            "type": "object",
            "properties": {"x": {"type": "number", "minimum": -2.5, "maximum": 9}},
            "required": ["x"],
            "additionalProperties": False,
        },
        {"anyOf": [{"const": 5}, {"enum": ["x", None]}]},
        {"$ref": "#/$defs/node", "$defs": {"node": {"enum": [1, 2]}}},
        {"type": "string", "pattern": "^[0-9]{3}-[a-z]{2}$"},
        {"type": "array", "items": {"type": "integer", "minimum": -3, "maximum": 3}, "minItems": 2, "maxItems": 3},
        {"type": "string", "format": "date"},
        {"type": "boolean"},
    ],
)
def test_an_answer_keeps_to_its_schema(client: OpenAI, schema: Any):
    """Whole and streamed, greedy and sampled, many at once; with the same text either way."""
    check = jsonschema_rs.validator_for(schema)
    settings: Any = {"model": "base", "messages": HELLO, "max_tokens": 200, "response_format": _format(schema)}
    greedy = client.chat.completions.create(**settings, **GREEDY).choices[0]
    assert greedy.finish_reason == "stop" and greedy.message.content
    check.validate(json.loads(greedy.message.content))
    chunks = client.chat.completions.create(**settings, **GREEDY, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == greedy.message.content
    sampled = client.chat.completions.create(**settings, n=8, seed=4, temperature=1.5, top_p=0.9)
    for choice in sampled.choices:
        assert choice.finish_reason == "stop"
        check.validate(json.loads(choice.message.content or ""))


def test_a_json_object(client: OpenAI):
    settings: Any = {"model": "maths", "max_tokens": 80, "response_format": {"type": "json_object"}}
    for seed in range(6):
        choice = client.chat.completions.create(messages=HELLO, seed=seed, **settings).choices[0]
        assert choice.message.content and choice.message.content.startswith("{")
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict)
    answer = client.completions.create(
        model="maths", prompt="x", max_tokens=200, extra_body={"response_format": _format(SCHEMA)}
    )
    json.loads(answer.choices[0].text)


def test_grammars_share_steps_with_free_answers(client: OpenAI):
    """In one batch, prompts taken from the cache, other models beside: each is what it is alone."""
    prompt = [{"role": "system", "content": "Answer as you are told to. " * 8}, *HELLO]
    formats: list[Any] = [None, _format(SCHEMA), _format({"enum": ["yes", "no"]}), {"type": "json_object"}]

    def ask(index: int) -> str:
        settings = {"response_format": formats[index % 4]} if formats[index % 4] else {}
        model = ("base", "java")[index // 4 % 2]
        answer = client.chat.completions.create(model=model, messages=prompt, max_tokens=60, **GREEDY, **settings)
        return answer.choices[0].message.content or ""

    alone = [ask(index) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(32))) == alone * 4


def test_with_stops_penalties_and_scores(client: OpenAI):
    settings: Any = {"model": "base", "messages": HELLO, "max_tokens": 99, "response_format": _format(SCHEMA)}
    penalised = client.chat.completions.create(**settings, frequency_penalty=2, presence_penalty=1, **GREEDY)
    jsonschema_rs.validate(SCHEMA, json.loads(penalised.choices[0].message.content or ""))
    scored = client.chat.completions.create(**settings, logprobs=True, top_logprobs=2, **GREEDY).choices[0]
    assert scored.logprobs and scored.logprobs.content and scored.message.content
    assert "".join(t.token for t in scored.logprobs.content if t.bytes)[:1] == "{"
    cut = client.chat.completions.create(**settings, stop='"kind"', **GREEDY).choices[0]
    assert cut.message.content == scored.message.content[: scored.message.content.find('"kind"')]
    short = client.chat.completions.create(**{**settings, "max_tokens": 3}, **GREEDY).choices[0]
    assert short.finish_reason == "length" and scored.message.content.startswith(short.message.content or "?")
    forced = client.chat.completions.create(**settings, logit_bias={"70": 100}, **GREEDY).choices[0]
    jsonschema_rs.validate(SCHEMA, json.loads(forced.message.content or ""))


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "grammar"},
        {},
        "json",
        _format({"type": "nothing"}),
        _format({"$ref": "https://example.com/schema.json"}),
        _format({"$ref": "file:///etc/passwd"}),
        _format({"type": "string", "pattern": "(?=a)b"}),
        _format(
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 1}}, "required": ["a"]}
        ),
        _format({"type": "object", "propertyNames": {"pattern": "x"}, "dependentSchemas": {"a": {"required": ["b"]}}}),
        _format(False),
        _format({"enum": []}),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(server: Server, given: Any):
    body = {"model": "base", "messages": HELLO, "max_tokens": 5, "response_format": given}
    response = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "response_format"), response.text
    assert len(response.json()["error"]["message"].splitlines()) == 1


def test_a_schema_cannot_be_used_against_the_server(server: Server, client: OpenAI):
    """Deep, wide and slow ones are refused or kept to in time; the server goes on."""
    deep: Any = {"type": "integer"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}
    slow = {"type": "string", "pattern": "^(a|aa){1,3000}$", "minLength": 2000}
    for schema in (deep, wide, slow, {"type": "string", "x-guidance": {"lenient": True}, "pattern": "(?=a)"}):
        body = {"model": "base", "messages": HELLO, "max_tokens": 4, "response_format": _format(schema)}
        response = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
        assert response.status_code in (200, 400), response.text
        assert response.status_code == 200 or response.json()["error"]["param"] == "response_format"
    assert client.completions.create(model="base", prompt="x", max_tokens=2).choices[0].text


# grammars below the server


@pytest.fixture(scope="module")
def loaded(store: Path) -> Loaded:
    return load(str(store.parent / "model"), weight_format="bf16")


def test_batches_keep_to_grammars_too(loaded: Loaded):
    grammars = Grammars(loaded.tokenizer, end_tokens(loaded))
    grammar = Processors(grammar=grammars.json(SCHEMA))
    requests = [
        Request(
            str(i), (65 + i, 66), 120, seeds=(0, 1, 2), temperature=i % 2, processors=grammar if i % 3 else Processors()
        )
        for i in range(9)
    ]
    free = {c.key: c for c in generate_batch(loaded, [Request("0", (65, 66), 120)])}
    for continuation in generate_batch(loaded, requests, slots=4, lanes=1):
        if int(continuation.key) % 3:
            assert continuation.finish == "eos"
            jsonschema_rs.validate(SCHEMA, json.loads(continuation.text))
        elif continuation.key == "0":
            assert continuation.tokens == free["0"].tokens


def test_a_model_with_more_rows_than_tokens(loaded: Loaded):
    """The vocabulary has 262 tokens, the model's head 272 rows."""
    assert len(loaded.tokenizer) == 262 and loaded.model.config.vocab_size == 272
    grammar = Grammars(loaded.tokenizer, end_tokens(loaded)).json({"enum": ["z"]})
    matcher = grammar.matcher()
    for letter in '"z"':
        allowed = matcher.mask(torch.zeros(272)).isfinite().nonzero()[:, 0].tolist()
        [token] = loaded.tokenizer(letter)["input_ids"]
        assert allowed == [token]
        matcher.take(token)
    assert matcher.mask(torch.zeros(272)).isfinite().nonzero()[:, 0].tolist() == [258]
    with pytest.raises(SubmodelError):
        grammar.matcher().take(5)


def test_a_tokenizer_that_no_grammar_is_made_for_is_said():
    try:
        Grammars(spaced_tokenizer(), frozenset({2})).json({"enum": ["a"]})
    except SubmodelError as error:
        assert "tokenizer" in str(error)
    with pytest.raises(SubmodelError, match="ends a text"):
        Grammars(tiny.byte_tokenizer(), frozenset())


# tools


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "now"}),
        ({"type": "function", "function": {"name": "weather"}}, {"weather"}),
        ({"type": "function", "function": {"name": "now"}}, {"now"}),
    ],
)
def test_tools_that_have_to_be_called(client: OpenAI, stream: bool, choice: Any, names: set[str]):
    settings: Any = {"model": "base", "messages": HELLO, "tools": TOOLS, "tool_choice": choice, "max_tokens": 300}
    settings |= {"n": 3, "seed": 2, "parallel_tool_calls": False}
    calls: dict[int, list[tuple[str, str, str]]] = {}
    if stream:
        finishes = {}
        parts: dict[tuple[int, int], list[str]] = {}
        for chunk in client.chat.completions.create(**settings, stream=True):
            for one in chunk.choices:
                assert not one.delta.content
                finishes[one.index] = one.finish_reason or finishes.get(one.index)
                for call in one.delta.tool_calls or []:
                    part = parts.setdefault((one.index, call.index), [call.id or "", "", ""])
                    assert call.function
                    part[1] += call.function.name or ""
                    part[2] += call.function.arguments or ""
        for (index, _), part in parts.items():
            calls.setdefault(index, []).append((part[0], part[1], part[2]))
        assert list(finishes.values()) == ["tool_calls"] * 3
    else:
        for one in client.chat.completions.create(**settings).choices:
            assert one.finish_reason == "tool_calls" and one.message.content is None
            calls[one.index] = [
                (call.id, call.function.name, call.function.arguments)  # type: ignore[union-attr]
                for call in one.message.tool_calls or []
            ]
    assert sorted(calls) == [0, 1, 2] and all(len(made) == 1 for made in calls.values())
    for [(identity, name, arguments)] in calls.values():
        assert identity.startswith("call_") and name in names
        jsonschema_rs.validate(WEATHER if name == "weather" else {"maxProperties": 0}, json.loads(arguments))
    assert len({made[0][0] for made in calls.values()}) == 3


def test_tools_that_may_be_called(client: OpenAI, server: Server):
    """A model that never heard of tools writes text; one that writes the tag makes a call that fits."""
    settings: Any = {"model": "base", "messages": HELLO, "tools": TOOLS, "max_tokens": 150, **GREEDY}
    answer = client.chat.completions.create(**settings).choices[0]
    assert answer.message.tool_calls is None and answer.message.content
    assert answer.finish_reason in ("length", "stop")
    chunks = list(client.chat.completions.create(**settings, tool_choice="auto", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == answer.message.content


@pytest.mark.parametrize("tags", ["letters", "tokens"])
def test_a_call_after_free_text(tags: str):
    """Text, then the tag: from there on the grammar holds; without the tag, nothing is held."""
    tokenizer = tiny.byte_tokenizer()
    if tags == "tokens":  # as Qwen has them: tokens of their own, but text
        tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    assert tags_of(tokenizer).is_token == (tags == "tokens")
    body = {"messages": HELLO, "tools": TOOLS}
    assert (tools_of(ChatRequest.model_validate(body)) or pytest.fail()).most == 1
    tools = tools_of(ChatRequest.model_validate({**body, "parallel_tool_calls": True}))
    assert tools
    grammars = Grammars(tokenizer, frozenset({258}))

    def follows(written: str, tools: Tools) -> Any:
        text = answer_grammar(tools, None, tags_of(tokenizer))
        assert text is not None
        matcher = grammars.lark(text).matcher()
        for token in tokenizer(written)["input_ids"]:
            assert matcher.mask(torch.zeros(272))[token].isfinite(), written
            matcher.take(token)
        return matcher.mask(torch.zeros(272)).isfinite()

    now = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    weather = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n</tool_call>'
    for written in ("free text, even with {braces} and <tags>", f"I will ask. {weather}", f"{now}\n{now}", ""):
        assert follows(written, tools)[258], written
    for written in (f"{now}\n{weather}", now):
        assert follows(written, replace(tools, required=True))[258]
    for written in (
        '<tool_call>\n{"name": "nobody"',
        'x<tool_call>\n{"name": "weather", "arguments": {"city": "Paris',
        f"{now} and more",
    ):
        with pytest.raises(AssertionError):
            follows(written, tools)
    for written in ("text", f"text{now}", f"{now}\n{now}"):
        with pytest.raises(AssertionError):
            follows(written, replace(tools, required=True, most=1))


def test_tags_that_are_no_text_are_refused():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(["<tool_call>"], special_tokens=True)
    with pytest.raises(Refusal, match="special token"):
        tags_of(tokenizer)


def _read_calls(text: str, size: int) -> tuple[str, list[dict[str, Any]]]:
    reader, content, calls = CallReader(), "", {}
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [""]
    for number, piece in enumerate(pieces):
        parts = reader.put(piece, last=number == len(pieces) - 1)
        content += parts.content
        for index, call in parts.calls.items():
            if index in calls:
                calls[index]["function"]["arguments"] += call["function"]["arguments"]
            else:
                calls[index] = call
    return content, [calls[index]["function"] for index in sorted(calls)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain text \n ", "plain text \n ", []),
        ("a <tool_cal", "a <tool_cal", []),
        ("<tool_call>\n", "", []),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "", [("f", "{}")]),
        (
            'so:\n\n<tool_call>\n{"name": "f", "arguments": {"a": "}\\n</tool_call>"}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g", "arguments": {"b": {"c": [{}]}}}\n</tool_call>',
            "so:",
            [("f", '{"a": "}\\n</tool_call>"}'), ("g", '{"b": {"c": [{}]}}')],
        ),
        ('<tool_call>\n{"name": "f", "arguments": {"cut": "sh', "", [("f", '{"cut": "sh')]),
    ],
)
def test_calls_are_read_however_their_text_comes(text: str, content: str, calls: list[tuple[str, str]], size: int):
    assert _read_calls(text, size) == (content, [{"name": name, "arguments": given} for name, given in calls])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "http://x/y"}}}]}, "tools"),
    ],
)
def test_tools_that_cannot_be_offered_are_refused(server: Server, change: dict[str, Any], param: str):
    body = {"model": "base", "messages": HELLO, "max_tokens": 5, **change}
    response = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


def test_tools_and_a_format(client: OpenAI):
    """Either the call or the format; with `required` the call."""
    settings: Any = {"model": "base", "messages": HELLO, "tools": TOOLS, "max_tokens": 200, **GREEDY}
    settings["response_format"] = _format({"enum": ["yes", "no"]})
    choice = client.chat.completions.create(**settings).choices[0]
    assert choice.message.tool_calls or json.loads(choice.message.content or "") in ("yes", "no")
    forced = client.chat.completions.create(**settings, tool_choice="required").choices[0]
    assert forced.message.tool_calls


# tools in a conversation

HISTORY: Any = [
    {"role": "user", "content": "Weather in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_0abc", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_0abc", "content": "minus 3 °C"},
    {"role": "user", "content": "and now?"},
]
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
HERMES = (
    "{% if tools %}<system>{% for t in tools %}{{ t | tojson }}{% endfor %}\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}\n{% endfor %}"
)
LLAMA = (
    "{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.tool_calls %}[CALLS]{% for c in m.tool_calls %}{{ c.function | tojson }}"
    "#{{ c.id }}{% endfor %}{% elif m.role == 'tool' %}[RESULT {{ m.tool_call_id }}]{{ m.content }}"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}\n{% endfor %}"
)
DROPS = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}\n"
    "{% endif %}{% endfor %}"
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def _text(tokenizer: Any, tokens: tuple[int, ...]) -> str:
    return tokenizer.decode(tokens)


@pytest.mark.parametrize(
    ("template", "call", "result"),
    [
        (PLAIN, f"<assistant>{CALL}\n", "<tool>minus 3 °C\n"),
        (HERMES, f"<assistant>{CALL}\n", "<tool>minus 3 °C\n"),
        (LLAMA, '<assistant>{"name": "weather", "parameters": {"city": "Oslo"}}\n', "<tool>minus 3 °C\n"),
        (MISTRAL, "[CALLS]", "[RESULT call_0abc]minus 3 °C\n"),
        (DROPS, f"<assistant>{CALL}\n", "<user><tool_response>\nminus 3 °C\n</tool_response>\n"),
    ],
)
def test_calls_and_results_in_a_history_reach_the_prompt(template: str, call: str, result: str):
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = template
    prompts = RequestPrompts(tokenizer)
    messages = [ChatMessage.model_validate(message) for message in HISTORY]
    text = _text(tokenizer, prompts.chat(messages).tokens)
    call, result = call.rstrip("\n"), result.rstrip("\n")  # as templates are rendered, lines that end a block go
    assert call in text and result in text and '{"city": "Oslo"}' in text and "None" not in text
    assert text.index(call) < text.index(result) < text.index("and now?")
    # with tools on offer: in one form with the history, that of the answer
    tools = tools_of(ChatRequest.model_validate({"messages": HISTORY, "tools": TOOLS}))
    text = _text(tokenizer, prompts.chat(messages, tools).tokens)
    assert '"name": "weather"' in text and '"of a city"' in text
    assert CALL in text and "minus 3" in text


@pytest.mark.parametrize("arguments", ["", "{}", "not json", '["a"]', '"text"', "[" * 5000, '{"a": "é"}', "null"])
def test_arguments_of_any_kind_in_a_history(arguments: str):
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = HERMES
    call = {"id": "x", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = [ChatMessage.model_validate({"role": "assistant", "tool_calls": [call]})]
    text = _text(tokenizer, RequestPrompts(tokenizer).chat(messages).tokens)
    expected = arguments if arguments.startswith("{") else json.dumps(arguments) if arguments else "{}"
    assert f'"arguments": {expected}}}' in text


def test_a_template_that_refuses_tools_says_so(client: OpenAI):
    with pytest.raises(openai.BadRequestError, match="no tools"):
        client.chat.completions.create(model="base", messages=HISTORY, max_tokens=3)
    offered = client.chat.completions.create(model="base", messages=HISTORY, max_tokens=3, tools=TOOLS)
    assert offered.choices[0].finish_reason == "length"  # its results are written as text
    tokenizer = tiny.byte_tokenizer()
    with pytest.raises(Refusal, match="no chat template"):
        RequestPrompts(tokenizer).chat([ChatMessage(role="user", content="x")])


def test_a_model_of_few_tokens_spells_what_is_asked_for(loaded: Loaded):
    """A sub-model whose vocabulary lacks the tokens of a grammar or of a bias: the request brings them along."""
    letters = np.arange(60, 90)
    limited = replace(loaded, vocabulary=Vocabulary.of(272, letters, letters))
    grammars = Grammars(limited.tokenizer, end_tokens(limited))
    grammar = Processors(grammar=grammars.json({"enum": ["größer"]}))
    request = Request("", (65, 66), 40, processors=grammar)
    named = replace(request, named=grammars.letters)
    thread = ModelThread(limited, rows=2)
    try:
        assert Caller(thread, request).wait().finish() == "grammar"
        caller = Caller(thread, named, best=20).wait()
        assert (caller.finish(), caller.text()) == ("eos", '"größer"')
        scores = [score for piece in caller.seen[0] for score in piece.scores]
        assert all(logprob > -1e4 for score in scores for _, logprob in score.best)  # JSON knows no infinity
        forced = Request("", (65, 66), 3, processors=Processors(bias=((5, 100.0),)), named=(5,))
        assert Caller(thread, forced).wait().tokens() == [5, 5, 5]
    finally:
        thread.close()
    assert [c.text for c in generate_batch(limited, [named], lanes=1)] == ['"größer"']
