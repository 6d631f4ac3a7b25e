"""Request parameters that move or bound an answer, through the official client: penalties, stops, echo, best_of."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from openai import OpenAI

from submodel.api import running
from submodel.cli import main
from submodel.runtime import Loaded, Request, generate_batch, load
from submodel.runtime.processors import Processor, Processors
from submodel.runtime.scoring import AlignedScores
from submodel.runtime.text import TextStream
from submodel.serve.server import Server
from tests import serving, tiny

HELLO: Any = [{"role": "user", "content": "hello there"}]
GREEDY: Any = {"temperature": 0}
EOS = 258


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def raw(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"{server.url}/v1", timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def base(server: Server, store: Path) -> Loaded:
    return load(str(store.parent / "model"), weight_format="bf16")


def _text(client: OpenAI, **settings: Any) -> str:
    request = {"model": "base", "prompt": "some words", "max_tokens": 40, **GREEDY, **settings}
    return client.completions.create(**request).choices[0].text


# penalties and bias


def _reference(logits: torch.Tensor, prompt: list[int], answer: list[int], **given: Any) -> torch.Tensor:
    """transformers' repetition penalty, OpenAI's formula for the others, token by token."""
    moved = logits.float().clone()
    for token in {*prompt, *answer} if given.get("repetition", 1) != 1 else ():
        moved[token] = moved[token] * given["repetition"] if moved[token] < 0 else moved[token] / given["repetition"]
    for token in set(answer):
        moved[token] -= given.get("frequency", 0) * answer.count(token) + given.get("presence", 0)
    for token, bias in given.get("bias", ()):
        moved[token] += bias
    return moved


@pytest.mark.parametrize(
    "given",
    [
        {"repetition": 1.3},
        {"repetition": 0.7},
        {"presence": 0.5},
        {"frequency": -1.5},
        {"presence": -2.0, "frequency": 2.0, "repetition": 1.1, "bias": ((3, 5.0), (4, -100.0))},
    ],
)
def test_logits_are_moved_as_the_formulas_have_it(given: dict[str, Any]):
    generator = torch.Generator().manual_seed(1)
    prompt, answer = [1, 2, 2, 30], [2, 7, 7, 7, 31]
    processor = Processor(Processors(**given), prompt)
    for count in range(len(answer) + 1):
        logits = torch.randn(40, generator=generator) * 3
        kept = logits.clone()
        moved = processor(logits)
        assert torch.allclose(moved, _reference(logits, prompt, answer[:count], **given), atol=1e-6)
        assert torch.equal(logits, kept)  # what is scored is the model's own
        if count < len(answer):
            processor.take(answer[count])


def test_repetition_is_that_of_transformers(llama: Path):
    """The same greedy tokens as `generate(repetition_penalty=...)`."""
    loaded = load(str(llama))
    prompt = tiny.ids(1, 12, seed=5)
    with torch.inference_mode():
        model: Any = loaded.model
        expected = model.generate(prompt, max_new_tokens=24, do_sample=False, repetition_penalty=1.4, eos_token_id=EOS)
    request = Request("", tuple(prompt[0].tolist()), 24, processors=Processors(repetition=1.4))
    [continuation] = generate_batch(loaded, [request])
    assert list(continuation.tokens) == expected[0, 12:].tolist()


def test_penalties_reach_the_model(client: OpenAI):
    free = _text(client)
    assert _text(client, frequency_penalty=0, presence_penalty=0.0, logit_bias={}, extra_body={"top_k": 0}) == free
    assert _text(client, extra_body={"repetition_penalty": 1.0, "top_k": -1}) == free
    for settings in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"extra_body": {"repetition_penalty": 2}}):
        moved = _text(client, **settings)
        assert moved != free and moved == _text(client, **settings)
    chat: Any = {"model": "base", "messages": HELLO, "max_tokens": 40, **GREEDY}
    plain = client.chat.completions.create(**chat).choices[0].message.content
    assert client.chat.completions.create(**chat, frequency_penalty=2).choices[0].message.content != plain


def test_a_frequency_penalty_lets_fewer_tokens_repeat(client: OpenAI):
    def most_frequent(**settings: Any) -> int:
        answer = client.completions.create(
            model="maths", prompt="aaaa", max_tokens=120, logprobs=0, **GREEDY, **settings
        )
        assert answer.choices[0].logprobs and answer.choices[0].logprobs.tokens
        return max(map(answer.choices[0].logprobs.tokens.count, answer.choices[0].logprobs.tokens))

    assert most_frequent(frequency_penalty=2) < most_frequent()


def test_a_bias_forces_and_forbids(client: OpenAI, server: Server):
    token = server.service.prompts.text("q").tokens[0]
    assert _text(client, logit_bias={str(token): 100}, max_tokens=5) == "qqqqq"
    answer = client.chat.completions.create(
        model="java", messages=HELLO, max_tokens=5, logit_bias={str(token): 100}, seed=1
    )
    assert answer.choices[0].message.content == "qqqqq"
    other = server.service.prompts.text("r").tokens[0]
    assert _text(client, logit_bias={str(token): 90, str(other): 60}, max_tokens=5) == "qqqqq"
    assert _text(client, logit_bias={str(token): -100, str(other): 60}, max_tokens=5) == "rrrrr"
    assert _text(client, logit_bias={str(EOS): 100}) == ""


def test_top_k_of_one_is_greedy(client: OpenAI):
    assert _text(client, temperature=2, extra_body={"top_k": 1}) == _text(client)


def test_neighbours_do_not_feel_a_request_s_penalties(server: Server, client: OpenAI):
    """In one batch, with the prompt taken from the cache: only the one that asks is moved."""
    from concurrent.futures import ThreadPoolExecutor

    prompt = "one beginning for all of them, longer than a piece: " * 4
    settings = [{}, {"frequency_penalty": 1.5}, {"logit_bias": {"70": 100}}, {"extra_body": {"repetition_penalty": 3}}]
    alone = [_text(client, prompt=prompt, **one) for one in settings]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda one: _text(client, prompt=prompt, **one), settings * 4))
    assert together == alone * 4 and len(set(alone)) == 4


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("completions", {"frequency_penalty": 2.1}, "frequency_penalty"),
        ("completions", {"presence_penalty": -3}, "presence_penalty"),
        ("completions", {"repetition_penalty": 0}, "repetition_penalty"),
        ("completions", {"frequency_penalty": "much"}, "frequency_penalty"),
        ("completions", {"logit_bias": {"9999": 1}}, "logit_bias"),
        ("completions", {"logit_bias": {"-1": 1}}, "logit_bias"),
        ("completions", {"logit_bias": {"x": 1}}, "logit_bias"),
        ("completions", {"logit_bias": {"3": 101}}, "logit_bias"),
        ("completions", {"logit_bias": [3]}, "logit_bias"),
        ("completions", {"best_of": 2, "n": 3}, "best_of"),
        ("completions", {"best_of": 2, "stream": True}, "best_of"),
        ("completions", {"best_of": 17}, "best_of"),
        ("completions", {"n": 17}, "n"),
        ("completions", {"max_tokens": 0}, "max_tokens"),
        ("completions", {"echo": True, "suffix": "x"}, "echo"),
        ("completions", {"echo": "yes please"}, "echo"),
        ("completions", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ("completions", {"min_p": 0.1}, "min_p"),
        ("completions", {"stop_token_ids": [5]}, "stop_token_ids"),
        ("completions", {"ignore_eos": True}, "ignore_eos"),
        ("completions", {"guided_regex": "a+"}, "guided_regex"),
        ("chat/completions", {"echo": True}, "echo"),
        ("chat/completions", {"best_of": 3}, "best_of"),
        ("chat/completions", {"max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"functions": [{"name": "f"}]}, "functions"),
        ("chat/completions", {"modalities": ["audio"]}, "modalities"),
        ("chat/completions", {"chat_template": "x"}, "chat_template"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(raw: httpx2.Client, path: str, change: Any, param: str):
    body = {"model": "base", "max_tokens": 4, **({"messages": HELLO} if "chat" in path else {"prompt": "a"}), **change}
    response = raw.post(f"/{path}", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


@pytest.mark.parametrize(
    "change",
    [
        {"stop": ""},
        {"stop": []},
        {"stop": ["", ""]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none", "parallel_tool_calls": True},
        {"frequency_penalty": 0, "presence_penalty": None},
        {"response_format": {"type": "text"}},
        {"logit_bias": None, "top_k": None, "repetition_penalty": None},
        {"best_of": 1, "echo": False},
        {"min_p": 0, "typical_p": 1.0, "mirostat": 0, "min_tokens": 0, "ignore_eos": False},
        {"user": "me", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "reasoning_effort": "low"},
    ],
)
def test_what_changes_nothing_is_taken(raw: httpx2.Client, change: dict[str, Any]):
    body = {"model": "base", "max_tokens": 12, "messages": HELLO, **GREEDY}
    plain, changed = (raw.post("/chat/completions", json=one).json() for one in (body, {**body, **change}))
    assert plain["choices"] == changed["choices"], changed


# stops


@pytest.mark.parametrize("stop", ["<s>", "x<s>", "<s>y", "x<s>y", "xx<s>yy", "<s><s>", "y<s>", "<unk>"])
def test_a_stop_string_names_special_tokens(stop: str):
    """As a text with the special tokens written out would be cut; what is shown is without them."""
    tokenizer = tiny.byte_tokenizer()
    ids = tokenizer("é xx")["input_ids"] + [257] + tokenizer("yy zz")["input_ids"] + [257, 257] + [256]
    full = "é xx<s>yy zz<s><s><unk>"
    stream, shown = TextStream(tokenizer, [65], (stop, "never")), ""
    for token in ids:
        text, stopped = stream.put(token)
        shown += text
        if stopped:
            break
    else:
        shown += stream.end()
    expected = full[: full.find(stop)] if stop in full else full
    assert shown == expected.replace("<s>", "").replace("<unk>", "")
    assert stream.stopped == (stop in full) and stream.shown == len(shown)


def test_a_stop_that_is_a_special_token_stops(client: OpenAI, raw: httpx2.Client):
    """Forced by a bias: on the first token, streamed, in a chat, with others."""
    mark = serving.FIM[0]
    for stop in (mark, [mark], ["never", mark]):
        forced: Any = {"logit_bias": {"259": 100}, "stop": stop, "max_tokens": 9, **GREEDY}
        answer = client.completions.create(model="base", prompt="a", **forced)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")
        assert answer.usage and answer.usage.completion_tokens == 1
        chunks = list(client.chat.completions.create(model="base", messages=HELLO, stream=True, **forced))
        assert [c.choices[0].finish_reason for c in chunks][-1] == "stop"
    free = client.completions.create(model="base", prompt="a", max_tokens=9, logit_bias={"259": 100}, **GREEDY)
    assert free.choices[0].finish_reason == "length" and free.choices[0].text == ""
    ended = client.completions.create(model="base", prompt="a", stop="</s>", logit_bias={str(EOS): 100}, **GREEDY)
    assert ended.choices[0].finish_reason == "stop"


# log-probabilities in step with the text


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_end_with_the_text(client: OpenAI, server: Server, length: int, stream: bool):
    """A stop string of several tokens, which a byte model's always is: none of its tokens are scored."""
    letters = server.service.prompts.text("abcdefghijklmnopqrstuvwxyz").tokens
    settings: Any = {"model": "python", "prompt": "some words", "max_tokens": 60, "logprobs": 1, "seed": 7}
    settings |= {"logit_bias": {str(letter): 40 for letter in letters}}
    free = client.completions.create(**settings).choices[0]
    stop = free.text[40 : 40 + length]
    assert len(set(free.text)) > 5 and len(free.text) == 60
    if stream:
        choices = [c.choices[0] for c in client.completions.create(**settings, stop=stop, stream=True)]
    else:
        choices = client.completions.create(**settings, stop=stop).choices
    text, tokens, offsets, so_far = "", [], [], 0
    for choice in choices:
        text += choice.text
        if choice.logprobs:
            tokens += choice.logprobs.tokens or []
            offsets += choice.logprobs.text_offset or []
            assert choice.logprobs.token_logprobs and len(choice.logprobs.token_logprobs) == len(
                choice.logprobs.tokens or []
            )
        so_far = max(so_far, *offsets, 0) if offsets else 0
        assert so_far <= len(text)  # never ahead of it
    assert text == free.text[: free.text.find(stop)] == "".join(tokens)
    assert free.logprobs and free.logprobs.text_offset and free.logprobs.tokens
    expected = [
        (token, offset)
        for token, offset in zip(free.logprobs.tokens, free.logprobs.text_offset, strict=True)
        if offset < len(text)
    ]
    assert list(zip(tokens, offsets, strict=True)) == expected


def test_chat_scores_end_with_the_text_too(client: OpenAI):
    settings: Any = {"model": "python", "messages": HELLO, "max_tokens": 40, "logprobs": True, **GREEDY}
    free = client.chat.completions.create(**settings).choices[0]
    assert free.message.content and free.logprobs and free.logprobs.content
    stop = free.message.content[12:15]
    cut = client.chat.completions.create(**settings, stop=stop).choices[0]
    assert cut.logprobs and cut.logprobs.content and len(cut.logprobs.content) < len(free.logprobs.content)
    assert free.logprobs.content[: len(cut.logprobs.content)] == cut.logprobs.content
    spelled = b"".join(bytes(token.bytes) for token in cut.logprobs.content if token.bytes is not None)
    assert cut.message.content is not None and len(spelled) <= len(cut.message.content.encode())


def test_what_ends_a_text_is_not_scored(client: OpenAI):
    ended = client.completions.create(
        model="base", prompt="a", logprobs=1, logit_bias={str(EOS): 100}, **GREEDY
    ).choices[0]
    assert ended.text == "" and (ended.logprobs is None or not ended.logprobs.tokens)


def test_tokens_of_one_character_come_together():
    """Bytes of a character that a stop string cuts go with it; those of one that is shown come with it."""
    logits = torch.zeros(300)
    for stops, shown, scored in [(("é",), "a", 1), (("b",), "aé", 3), ((), "aéb", 4)]:
        tokenizer = tiny.byte_tokenizer()
        stream, scores, text, due = TextStream(tokenizer, [65], stops), AlignedScores(0), "", []
        for token in tokenizer("aéb")["input_ids"]:
            scores.add(logits, token, is_text=True)
            piece, stopped = stream.put(token)
            text += piece
            due += scores.shown(stream.decoded, stream.shown, ended=stopped)
            if stopped:
                break
        assert (text, len(due)) == (shown, scored)
        assert [score.offset for score in due] == [0, 1, 1, 2][:scored]


# echo


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("best", [None, 0, 2])
def test_echo_gives_the_prompt_back(client: OpenAI, server: Server, stream: bool, best: int | None):
    prompts = ["some wörds", "def f(x):\n    return"]
    settings: Any = {"model": "python", "prompt": prompts, "max_tokens": 6, "n": 2, "logprobs": best, **GREEDY}
    plain = client.completions.create(**settings)
    if stream:
        texts, tokens, offsets = [""] * 4, [[] for _ in range(4)], [[] for _ in range(4)]
        for chunk in client.completions.create(**settings, echo=True, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                if choice.logprobs:
                    tokens[choice.index] += choice.logprobs.tokens or []
                    offsets[choice.index] += choice.logprobs.text_offset or []
    else:
        echoed = client.completions.create(**settings, echo=True)
        assert echoed.usage == plain.usage
        texts = [choice.text for choice in echoed.choices]
        tokens = [choice.logprobs.tokens if choice.logprobs else [] for choice in echoed.choices]
        offsets = [choice.logprobs.text_offset if choice.logprobs else [] for choice in echoed.choices]
    assert texts == [prompts[i // 2] + plain.choices[i].text for i in range(4)]
    for index in range(4):
        count = len(server.service.prompts.text(prompts[index // 2]).tokens)
        assert len(tokens[index] or []) == (0 if best is None else count + 6)
        assert offsets[index] == sorted(offsets[index] or []) and (best is None or offsets[index][0] == 0)  # type: ignore[index]


def test_scores_of_a_prompt_are_the_models(client: OpenAI, server: Server, base: Loaded):
    """Against one pass of the model; a prompt of several pieces, given as text and as tokens, known or not."""
    text = "def f(x):\n    return x + 1\n\n\n" * 7
    ids = list(server.service.prompts.text(text).tokens)
    with torch.inference_mode():
        model: Any = base.model
        expected = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    for prompt in (text, ids, [ids]):
        answer = client.completions.create(model="base", prompt=prompt, max_tokens=0, echo=True, logprobs=3)
        [choice] = answer.choices
        assert choice.text == text and choice.finish_reason == "length"
        assert answer.usage and answer.usage.completion_tokens == 0
        logprobs = choice.logprobs
        assert logprobs and logprobs.token_logprobs and logprobs.top_logprobs
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        for at in range(1, len(ids)):
            assert abs(logprobs.token_logprobs[at] - float(expected[at - 1, ids[at]])) < 0.02  # type: ignore[operator]
            assert len(logprobs.top_logprobs[at]) <= 3
    # generating after it goes on as without it
    settings: Any
    for settings in ({"echo": True, "logprobs": 1}, {"echo": True}, {}):
        answer = client.completions.create(model="base", prompt=text, max_tokens=20, **GREEDY, **settings)
        end = answer.choices[0].text.removeprefix(text)
        assert len(end) > 3 and end == _text(client, prompt=text, max_tokens=20)


# best_of


def test_best_of_gives_the_likeliest(client: OpenAI):
    settings: Any = {"model": "java", "prompt": ["ab", "xyz"], "max_tokens": 6, "seed": 3, "temperature": 1}
    every = client.completions.create(**settings, n=6, logprobs=0).choices
    best = client.completions.create(**settings, n=2, best_of=6)
    assert best.usage and best.usage.completion_tokens == 12 * 6
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    for prompt in (0, 1):
        group = every[6 * prompt : 6 * prompt + 6]

        def mean(choice: Any) -> float:
            return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

        ranked = sorted(group, key=mean, reverse=True)
        assert [choice.text for choice in best.choices[2 * prompt : 2 * prompt + 2]] == [c.text for c in ranked[:2]]
    assert all(choice.logprobs is None for choice in best.choices)
    scored = client.completions.create(**settings, n=1, best_of=3, logprobs=1).choices
    assert all(choice.logprobs and choice.logprobs.tokens for choice in scored)


# Unicode

_HALF = "\\ud83d"
_BODIES = {
    "prompt": '{"prompt": "a%s"}',
    "prompt of several": '{"prompt": ["a", "%s"]}',
    "suffix": '{"prompt": "a", "suffix": "%s"}',
    "stop": '{"prompt": "a", "stop": ["%s"]}',
    "model": '{"model": "%s", "prompt": "a"}',
    "unknown field": '{"prompt": "a", "other": {"x": ["%s"]}}',
    "a key": '{"prompt": "a", "%s": 1}',
    "user": '{"prompt": "a", "user": "%s"}',
    "content": '{"messages": [{"role": "user", "content": "%s"}]}',
    "part": '{"messages": [{"role": "user", "content": [{"type": "text", "text": "%s"}]}]}',
    "role": '{"messages": [{"role": "%s", "content": "a"}]}',
    "name": '{"messages": [{"role": "user", "content": "a", "name": "%s"}]}',
    "call": '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "%s"}}]}]}',
    "tool": '{"messages": [{"role": "user", "content": "a"}],'
    ' "tools": [{"type": "function", "function": {"name": "f", "description": "%s"}}]}',
    "tool's key": '{"messages": [{"role": "user", "content": "a"}],'
    ' "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"%s": {}}}}}]}',
    "schema": '{"prompt": "a", "response_format":'
    ' {"type": "json_schema", "json_schema": {"schema": {"enum": ["%s"]}}}}',
    "bias": '{"prompt": "a", "logit_bias": {"%s": 1}}',
    "file": '{"prompt": "a", "file": "%s"}',
}


@pytest.mark.parametrize("half", [_HALF, "\\udc00", "\\uDE00\\uD83D", "x\\ud800y", "\\uD83D\\uD83D\\uDE00"])
@pytest.mark.parametrize("path", ["completions", "chat/completions", "route"])
def test_half_a_character_is_refused_everywhere(raw: httpx2.Client, path: str, half: str):
    for where, template in _BODIES.items():
        body = (template % half).replace("{", '{"max_tokens": 2, ', 1)
        for model in ("", '"model": "base", '):
            sent = body if '"model"' in body else body.replace("{", "{" + model, 1)
            response = raw.post(f"/{path}", content=sent, headers={"Content-Type": "application/json"})
            assert response.status_code == 400, (where, response.text)
            assert "Unicode" in response.json()["error"]["message"], where


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"prompt": "a\xed\xa0\xbd"}', 400),  # a surrogate in three bytes
        (b'{"prompt": "a\xff"}', 400),
        ('{"prompt": "a"}'.encode("utf-16"), 400),
        ('{"prompt": "a"}'.encode("utf-32-le"), 400),
        ('{"prompt": "a\u00e9"}'.encode("latin-1"), 400),
        (b'{"prompt": "a\\ud83d\\ude00", "max_tokens": 1}', 200),  # a whole pair
        ('{"prompt": "a\U0001f600", "max_tokens": 1}'.encode(), 200),
        (b'{"prompt": "a\\\\ud83d", "max_tokens": 1}', 200),  # a backslash and letters
        (b'{"prompt": "\\u0000\\uffff", "max_tokens": 1}', 200),
        (b'\xef\xbb\xbf{"prompt": "a", "max_tokens": 1}', 200),
    ],
)
def test_encodings_of_bodies(raw: httpx2.Client, body: bytes, status: int):
    response = raw.post("/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert status == 200 or json.loads(response.content)["error"]["message"]


def test_a_refusal_names_the_parameter_for_the_client(client: OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="base", prompt="a", best_of=2, n=3)
    assert refused.value.param == "best_of"


# the command


@pytest.mark.parametrize("json_too", [False, True])
def test_serve_prints_the_address_of_its_page(
    json_too: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def started(store: str, *, ready: Any, **options: Any) -> None:
        ready("http://127.0.0.1:8000", ["base", "python"])

    monkeypatch.setattr(running, "serve", started)
    assert main(["serve", "coder.store", *(["--json"] if json_too else [])]) in (None, 0)
    out = capsys.readouterr().out
    if json_too:
        assert json.loads(out) == {
            "url": "http://127.0.0.1:8000",
            "page": "http://127.0.0.1:8000/",
            "models": ["base", "python"],
        }
    else:
        assert "http://127.0.0.1:8000/v1 answers as auto, base, python" in out
        assert "http://127.0.0.1:8000/ is a page" in out
