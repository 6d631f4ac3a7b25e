"""The page at / in a browser: chat, two models side by side, the models, what goes wrong; on a desk and on a phone."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from submodel.serve import page_files
from submodel.serve.page_files import PAGE
from submodel.serve.server import Server
from submodel.store import Store
from tests import serving
from tests.test_packed_models import RECIPE

playwright: Any = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

WIDE, NARROW = 1100, 390  # px: a desk, a phone
CHAT = "**/v1/chat/completions"
VENDOR = Path(page_files.__file__).parent / "page" / "vendor"
CODE = "def add(a, b): please"
# what is wider than the window, or than the part of the page that it scrolls in
OVERFLOW = """() => [document.documentElement, ...document.querySelectorAll("body, main, section, #log, .answer, .bar")]
  .filter((e) => e.scrollWidth > Math.max(e.clientWidth, 1) && e.offsetParent !== null || e.scrollWidth > innerWidth)
  .map((e) => `${e.tagName} ${e.id} ${e.scrollWidth} > ${e.clientWidth}`)"""


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[Server]:
    with serving.running(store) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium: install chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=found, args=["--no-sandbox"])


@pytest.fixture(params=[WIDE, NARROW])
def page(request: pytest.FixtureRequest, browser: Any, server: Server) -> Iterator[Any]:
    """The page of the server; when a test is done nothing may be wider than the window, and no script have failed."""
    opened = _open(browser, request.param)
    failed: list[str] = []
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(server.url)
    yield opened
    for tab in ("Chat", "Side by side", "Models"):
        opened.get_by_role("tab", name=tab).click()
        assert opened.evaluate(OVERFLOW) == [], tab
    assert failed == []
    opened.context.close()


def _open(browser: Any, width: int) -> Any:
    opened = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    opened.set_default_timeout(20_000)
    return opened


def _ask(page: Any, question: str) -> Any:
    """Sends a message; the article of its answer, or of what went wrong, when it has ended."""
    page.fill("#question", question)
    page.click("#send")
    article = page.locator("#log .answer").last
    _ended(page, article)
    return article


def _ended(page: Any, article: Any) -> None:
    playwright.expect(article).not_to_have_class(re.compile("waits"))
    playwright.expect(article.locator(".meta span").last).to_be_visible()


def _answered(server: Server, path: str, **body: Any) -> str:
    """What the API answers, as the page shows it."""
    found = httpx2.post(f"{server.url}/v1/{path}", json={"temperature": 0, **body}, timeout=60).json()["choices"][0]
    return (found["message"]["content"] if "message" in found else found["text"]).strip()


def _shown(article: Any) -> str:
    return article.locator(".text").evaluate("(e) => e.textContent").strip()


def test_a_chat_shows_who_answered_and_how_fast(page: Any, server: Server):
    page.fill("#tokens", "64")
    article = _ask(page, CODE)
    meta = article.locator(".meta").inner_text()
    assert article.locator(".meta b").inner_text() == "python"
    for said in ("by the kind of code", "confidence 90%", "64 tokens, cut there"):
        assert said in meta, meta
    assert re.search(r"first text after \d+\.\d\d s", meta), meta
    turn = {"role": "user", "content": CODE}
    said = _answered(server, "chat/completions", model="python", messages=[turn], max_tokens=64)
    assert said and _shown(article) == said
    with page.expect_request(CHAT) as sent:
        named = _ask(page, "class A: and now this")
    assert named.locator(".meta b").inner_text() == "python"  # as the router reads the whole conversation
    messages = sent.value.post_data_json["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"] and messages[0] == turn
    page.click("#clear")
    assert page.locator("#log > *").count() == 0
    page.select_option("#model", "java")
    meta = _ask(page, CODE).locator(".meta").inner_text()
    assert meta.startswith("java") and "as asked" in meta and "confidence" not in meta


def test_an_answer_that_comes_in_pieces_has_a_rate(page: Any, server: Server):
    meta = ""
    for _ in range(5):  # a busy machine may hand one over in a single piece: then there is nothing to tell a rate from
        page.click("#clear")
        meta = _ask(page, CODE).locator(".meta").inner_text()
        if re.search(r"\d+\.\d tokens/s", meta):
            return
    pytest.fail(meta)


@pytest.mark.parametrize("tab", ["Chat", "Side by side"])
def test_a_question_may_come_before_the_list_of_models(browser: Any, server: Server, tab: str):
    """A slow machine, a fast hand."""
    page = _open(browser, WIDE)
    held: list[Any] = []
    page.route("**/v1/models", lambda route: held.append(route))
    page.goto(server.url)
    if tab == "Chat":
        assert _ask(page, CODE).locator(".meta b").inner_text() == "python"
    else:
        page.get_by_role("tab", name=tab).click()
        page.fill("#prompt", CODE)
        page.click("#run")
        with page.expect_response("**/v1/models"):
            for route in held:
                route.continue_()
        for side, name in (("left", "java"), ("right", "base")):
            article = page.locator(f"#answer-{side}")
            playwright.expect(article.locator(".meta b")).to_have_text(name)
            _ended(page, article)
    page.context.close()


def test_the_models_are_listed(page: Any, server: Server):
    _ask(page, CODE)
    page.get_by_role("tab", name="Models").click()
    cards = page.locator("#list .model")
    playwright.expect(cards).to_have_count(1 + len(serving.SUBMODELS))
    names = [re.sub("(in memory|on disk)$", "", found).strip() for found in cards.locator("h2").all_inner_texts()]
    assert names == ["base", *sorted(serving.SUBMODELS)]
    python = cards.nth(names.index("python"))
    playwright.expect(python.locator(".badge")).to_have_text("in memory")
    rows = dict(
        zip(python.locator("dt").all_inner_texts(), python.locator("dd").all_inner_texts(), strict=True),
    )
    assert rows["domain"] and rows["sparsity"].startswith("50%") and rows["method"]
    assert re.fullmatch(r"\d+\.\d MB bf16", rows["in memory"]) and re.fullmatch(r"\d+\.\d MB", rows["mask on disk"])


def test_two_models_answer_side_by_side(page: Any, server: Server):
    page.fill("#tokens", "40")
    page.get_by_role("tab", name="Side by side").click()
    page.select_option("#left", "maths")
    page.select_option("#right", "java")
    page.fill("#prompt", "two of you")
    turns = [{"role": "user", "content": "two of you"}]
    for path, body in (("chat/completions", {"messages": turns}), ("completions", {"prompt": "two of you"})):
        page.set_checked("#plain", path == "completions")
        page.click("#run")
        playwright.expect(page.locator("#run")).to_be_enabled()
        shown = []
        for side, name in (("left", "maths"), ("right", "java")):
            article = page.locator(f"#answer-{side}")
            meta = article.locator(".meta").inner_text()
            assert article.locator("h2").inner_text() == article.locator(".meta b").inner_text() == name
            assert "40 tokens, cut there" in meta and "first text after" in meta
            shown.append(_shown(article))
            assert shown[-1] == _answered(server, path, model=name, max_tokens=40, **body)
        assert shown[0] != shown[1]
    left, right = (page.locator(f"#answer-{side}").bounding_box() for side in ("left", "right"))
    if page.viewport_size["width"] == WIDE:
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    else:
        assert left["x"] == right["x"] and left["y"] + left["height"] <= right["y"]


CHUNK = json.dumps({"choices": [{"index": 0, "delta": {"content": "a beginning"}, "finish_reason": None}]})
STREAM = {"status": 200, "content_type": "text/event-stream"}
BAD = {
    "not ours": ({"status": 500, "body": "<html>oh</html>"}, "the server answered 500"),
    "busy": ({"status": 429, "body": '{"error": {"message": "128 requests wait"}}'}, "128 requests wait"),
    "half an answer": ({**STREAM, "body": f"data: {CHUNK}\n\n"}, "broke off"),
    "late": ({**STREAM, "body": f'data: {CHUNK}\n\ndata: {{"error": {{"message": "too long"}}}}\n\n'}, "too long"),
    "nonsense": ({**STREAM, "body": "data: <html>\n\n"}, "no answer"),
    "another shape": ({**STREAM, "body": "data: {}\n\ndata: [DONE]\n\n"}, "no answer"),
    "an error without words": ({"status": 503, "body": '{"error": null}'}, "the server answered 503"),
    "none": (None, "Failed to fetch"),
}


def _answer_with(response: dict[str, Any] | None) -> Any:
    return lambda route: route.fulfill(**response) if response else route.abort()


@pytest.mark.parametrize("page", [NARROW], indirect=True)
def test_bad_answers_are_shown(page: Any):
    """Each as one line under the answer; what came before stays, and the next question is answered."""
    for kind, (response, says) in BAD.items():
        page.route(CHAT, _answer_with(response))
        article = _ask(page, CODE)
        failed = article.locator(".meta .failed")
        assert failed.count() == 1 and says in failed.inner_text(), (kind, article.inner_text())
        assert _shown(article) == ("a beginning" if kind in ("half an answer", "late") else "")
        page.unroute(CHAT)
    page.route(CHAT, lambda route: None)  # never answered
    page.fill("#question", CODE)
    page.click("#send")
    page.click("#stop")
    stopped = page.locator("#log .answer").last
    playwright.expect(stopped.locator(".meta")).to_have_text("stopped")
    assert stopped.locator(".failed").count() == 0
    page.unroute(CHAT)
    page.click("#clear")
    too_long = _ask(page, "x" * 600).locator(".meta .failed").inner_text()
    assert "takes 512" in too_long
    page.fill("#tokens", "4")
    assert "4 tokens" in _ask(page, CODE).locator(".meta").inner_text()
    page.route("**/v1/models", lambda route: route.fulfill(status=502, body="nobody there"))
    _ask(page, CODE)
    playwright.expect(page.locator("#notice")).to_have_text("the server answered 502")
    page.unroute("**/v1/models")
    _ask(page, CODE)
    playwright.expect(page.locator("#notice")).to_be_hidden()


def test_a_key_is_asked_for(browser: Any, store: Path):
    with serving.running(store, api_key="s3cret") as server:
        page = _open(browser, NARROW)
        page.goto(server.url)
        playwright.expect(page.locator("#notice")).to_contain_text("API key")
        page.fill("#key-field", "s3cret")
        page.click("#key button")
        playwright.expect(page.locator("#notice")).to_be_hidden()
        assert page.locator("#list .model").count() == 1 + len(serving.SUBMODELS)
        assert page.evaluate(OVERFLOW) == []
        page.context.close()


def _stream(*pieces: str) -> dict[str, Any]:
    """A whole answer as the server streams it."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return {**STREAM, "headers": {"x-submodel-name": "python"}, "body": "".join(lines) + "data: [DONE]\n\n"}


MARKDOWN = """# A sum

Use **`add`**, *not* ~~`plus`~~; see [the docs](https://example.org/a).

| a | b |
|---|---|
| 1 | 2 |

1. first
2. second

> quoted

```python
def add(a, b):
    return a + "<b>"  # & more
```

```
plain <i>text</i>
```

```no-such-language
x < y
```
"""


def test_markdown_and_code_are_shown_as_such(page: Any):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.route(CHAT, _answer_with(_stream(MARKDOWN[:40], MARKDOWN[40:])))
    text = _ask(page, CODE).locator(".text")
    for selector, shown in {
        "h1": "A sum",
        "strong code": "add",
        "em": "not",
        "s code": "plus",
        "ol li:nth-child(2)": "second",
        "blockquote": "quoted",
        "td:nth-child(2)": "2",
        ".code .code-head span": "python",
        ".code .hljs-keyword": "def",
    }.items():
        assert text.locator(selector).first.inner_text().strip() == shown, selector
    link = text.locator("a")
    assert link.get_attribute("href") == "https://example.org/a" and "noopener" in link.get_attribute("rel")
    codes = text.locator(".code pre").all_text_contents()
    assert codes == ['def add(a, b):\n    return a + "<b>"  # & more', "plain <i>text</i>", "x < y"]
    text.locator(".code .copy").first.click()
    playwright.expect(text.locator(".code .copy").first).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == codes[0]
    colours = {
        text.locator(f".hljs-{kind}").first.evaluate("(e) => getComputedStyle(e).color") for kind in ("keyword",)
    }
    assert colours.isdisjoint({text.locator(".code pre").first.evaluate("(e) => getComputedStyle(e).color")})


def test_a_fence_that_is_open_is_code(page: Any):
    page.route(CHAT, _answer_with(_stream("So:\n\n```python\nfor x in", " range(3):")))
    code = _ask(page, CODE).locator(".code pre")
    assert code.all_text_contents() == ["for x in range(3):"] and code.locator(".hljs-keyword").count()


UNTRUSTED = {
    "script": "<script>window.taken = 1</script>",
    "image with a handler": "<img src=x onerror='window.taken = 1'>",
    "image": "![a](https://evil.invalid/a.png)",
    "image of this server": "![a](/v1/models)",
    "image by reference": "![a][b]\n\n[b]: https://evil.invalid/a.png",
    "link that is a script": "[a](javascript:window.taken=1)",
    "link with entities": "[a](&#106;avascript:window.taken=1)",
    "link with a tab": "[a](<java\tscript:window.taken=1>)",
    "link to data": "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "automatic link": "<javascript:window.taken=1>",
    "vector graphic": "<svg onload='window.taken = 1'><circle r=9 /></svg>",
    "frame": "<iframe srcdoc='<script>parent.taken = 1</script>'></iframe>",
    "style": "<style>* { background: url(https://evil.invalid/a.png) }</style>",
    "form": "<form action='https://evil.invalid/'><input name=a><button>b</button></form>",
    "fence whose language is HTML": '```"><img/src=x/onerror=window.taken=1>\na\n```',
    "code with a handler": "```html\n<img src=x onerror='window.taken = 1'>\n```",
    "code that ends itself": "```python\n</code></pre><script>window.taken = 1</script>\n```",
    "broken nesting": "<math><mtext><table><mglyph><style><!--</style>"
    "<img title='--><img src=1 onerror=window.taken=1>'>",
    "base": "<base href='https://evil.invalid/'>[a](b)",
    "refresh": "<meta http-equiv=refresh content='0;url=https://evil.invalid/'>",
}
ELEMENTS = {"P", "BR", "A", "CODE", "PRE", "SPAN", "DIV", "BUTTON", "UL", "OL", "LI", "EM", "STRONG"}


@pytest.mark.parametrize("page", [WIDE], indirect=True)
def test_text_of_a_model_runs_nothing_and_loads_nothing(page: Any, server: Server):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for kind, text in UNTRUSTED.items():
        page.route(CHAT, _answer_with(_stream(text)))
        shown = _ask(page, kind).locator(".text")
        names = set(shown.evaluate("(e) => [...e.querySelectorAll('*')].map((e) => e.tagName.toUpperCase())"))
        assert names <= ELEMENTS, (kind, names)
        attributes = shown.evaluate("(e) => [...e.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())")
        assert set(attributes) <= {"class", "href", "target", "rel", "tabindex", "type", "aria-label"}, (
            kind,
            attributes,
        )
        for link in shown.locator("a").all():
            link.click(no_wait_after=True, modifiers=["Alt"])
            assert re.match("https?:", link.get_attribute("href")), kind
        page.unroute(CHAT)
    page.reload()  # what was kept is shown as carefully
    playwright.expect(page.locator("#log .answer")).to_have_count(len(UNTRUSTED))
    assert page.evaluate("window.taken") is None
    assert {url for url in asked if not url.startswith(server.url)} == set()
    assert page.locator("#log").get_by_text("<script>window.taken = 1</script>", exact=True).first.is_visible()


def test_every_file_of_the_page_has_its_policy(server: Server):
    for path in PAGE:
        answer = httpx2.get(f"{server.url}{path}")
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert answer.status_code == 200 and policy["default-src"] == "'none'" and policy["script-src"] == "'self'"
        assert "unsafe" not in str(policy) and policy["img-src"] == "data:"


def test_the_libraries_are_those_that_were_published():
    table = VENDOR.joinpath("README.md").read_text()
    libraries = sorted(VENDOR.glob("*.js"))
    assert libraries
    for file in libraries:
        assert f"| {hashlib.sha256(file.read_bytes()).hexdigest()} |" in table, file
        assert VENDOR.joinpath(file.name.replace(".min.js", ".LICENSE")).is_file()
        assert f"/vendor/{file.name}" in PAGE


def test_a_conversation_is_kept_over_a_reload_until_it_is_cleared(page: Any):
    page.route(CHAT, _answer_with(_stream("**one**")))
    _ask(page, "first")
    page.reload()
    article = page.locator("#log .answer")
    playwright.expect(article.locator("strong")).to_have_text("one")
    assert article.locator(".meta b").inner_text() == "python" and page.locator("#log .said").inner_text() == "first"
    with page.expect_request(CHAT) as sent:
        _ask(page, "second")
    contents = [(turn["role"], turn["content"]) for turn in sent.value.post_data_json["messages"]]
    assert contents == [("user", "first"), ("assistant", "**one**"), ("user", "second")]
    page.click("#clear")
    page.reload()
    playwright.expect(page.locator("#log .hint")).to_be_visible()
    assert page.locator("#log .answer").count() == 0 and page.evaluate("localStorage.length") == 0


def test_a_question_without_its_answer_is_shown_but_not_sent_again(page: Any):
    page.route(CHAT, lambda route: None)  # never answered
    page.fill("#question", "first")
    page.click("#send")
    playwright.expect(page.locator("#log .waits")).to_be_visible()
    page.reload()
    playwright.expect(page.locator("#log .said")).to_have_text("first")
    page.unroute(CHAT)
    page.route(CHAT, _answer_with(_stream("two")))
    with page.expect_request(CHAT) as sent:
        _ask(page, "second")
    assert [turn["content"] for turn in sent.value.post_data_json["messages"]] == ["second"]


@pytest.mark.parametrize("page", [NARROW], indirect=True)
@pytest.mark.parametrize(
    "stored",
    [
        "{",
        "null",
        "[]",
        '{"version": 2, "turns": []}',
        '{"version": 1, "turns": 5}',
        '{"version": 1, "turns": [{"role": "system", "content": "a"}]}',
        '{"version": 1, "turns": [{"role": "user", "content": 5}]}',
        '{"version": 1, "turns": [null]}',
        '{"version": 1, "turns": [{"role": "assistant", "content": "a", "meta": "b"}]}',
        '{"version": 1, "turns": [{"role": "assistant", "content": "a", "meta": [["b"]]}]}',
    ],
)
def test_what_was_kept_in_another_form_is_not_shown(page: Any, stored: str):
    page.evaluate("(text) => localStorage.setItem('submodel.conversation', text)", stored)
    page.reload()
    playwright.expect(page.locator("#log .hint")).to_be_visible()
    assert "4 tokens" in (page.fill("#tokens", "4"), _ask(page, CODE))[1].locator(".meta").inner_text()


@pytest.mark.parametrize("page", [NARROW], indirect=True)
def test_a_browser_that_keeps_nothing_has_a_chat(page: Any):
    script = "Storage.prototype.setItem = Storage.prototype.getItem = () => { throw new DOMException('full') };"
    page.add_init_script(script)
    page.reload()
    page.route(CHAT, _answer_with(_stream("one")))
    assert _shown(_ask(page, CODE)) == "one"


def _enter(page: Any, text: str) -> None:
    page.fill("#question", text)
    page.press("#question", "Enter")


def test_a_message_that_is_sent_while_an_answer_runs_waits_its_turn(page: Any):
    held: list[Any] = []
    page.route(CHAT, lambda route: held.append(route))
    for text in ("first", "second", "third", "fourth"):
        _enter(page, text)
    said = page.locator("#log .said")
    assert page.input_value("#question") == "" and page.locator(".queued").count() == 3
    said.nth(2).get_by_role("button").click()  # the third is not to be sent
    assert page.locator(".queued").count() == 2
    for count, text in enumerate(("one", "two", "three"), 1):
        page.wait_for_function("(n) => document.querySelectorAll('#log .answer').length === n", arg=count)
        while len(held) < count:
            page.wait_for_timeout(10)
        held[-1].fulfill(**_stream(text))
        playwright.expect(page.locator("#log .answer .text").nth(count - 1)).to_have_text(text)
    shown = [line.split("\n")[0] for line in page.locator("#log > *").all_inner_texts()]
    assert shown == ["first", "one", "second", "two", "fourth", "three"]
    last = [turn["content"] for turn in held[-1].request.post_data_json["messages"]]
    assert last == ["first", "one", "second", "two", "fourth"]
    assert len(held) == 3 and page.locator("#stop").is_hidden()


@pytest.mark.parametrize("page", [NARROW], indirect=True)
def test_stop_ends_one_answer_and_a_failure_sends_nothing_more(page: Any):
    held: list[Any] = []
    page.route(CHAT, lambda route: held.append(route))
    for text in ("first", "second", "third"):
        _enter(page, text)
    page.click("#stop")
    playwright.expect(page.locator("#log .answer")).to_have_count(2)  # the second runs
    while len(held) < 2:
        page.wait_for_timeout(10)
    page.fill("#question", "begun")
    held[-1].fulfill(status=503, body="{}")
    playwright.expect(page.locator("#question")).to_have_value("third\n\nbegun")
    assert page.locator(".queued").count() == 0 and len(held) == 2 and page.locator("#stop").is_hidden()


@pytest.mark.parametrize("page", [NARROW], indirect=True)
def test_a_conversation_that_is_cleared_while_an_answer_runs_is_empty(page: Any):
    held: list[Any] = []
    page.route(CHAT, lambda route: held.append(route))
    for text in ("first", "second"):
        _enter(page, text)
    page.click("#clear")
    assert page.locator("#log > *").count() == 0 and page.locator("#stop").is_hidden()
    page.unroute(CHAT)
    page.route(CHAT, _answer_with(_stream("new")))
    with page.expect_request(CHAT) as sent:
        _ask(page, "third")
    assert [turn["content"] for turn in sent.value.post_data_json["messages"]] == ["third"]
    assert page.evaluate("JSON.parse(localStorage['submodel.conversation']).turns.length") == 2


CHECK = {"perplexity": 6.6, "base_perplexity": 6.0, "ratio": 1.1, "low": 1.05, "high": 1.15, "tokens": 4088}


def test_the_models_say_what_they_lost(browser: Any, tmp_path: Path):
    """By the check of the manifest, with its interval where it has one; a line only where something was measured."""
    folder = serving.make_store(tmp_path, ("plain",))
    store = Store(folder)
    masks = store.masks("plain")
    older = {key: value for key, value in CHECK.items() if key not in ("ratio", "low", "high")}
    store.add("checked", dict(masks), {**RECIPE, "check": {**CHECK, "sha256_tokens": "0" * 64}})
    store.add("older", dict(masks), {**RECIPE, "check": older})
    with serving.running(folder) as server:
        models = {model["id"]: model for model in httpx2.get(f"{server.url}/v1/models").json()["data"]}
        assert models["checked"]["submodel"]["held_out"] == {**CHECK, "sha256_tokens": "0" * 64}
        assert models["plain"]["submodel"]["held_out"] is None
        page = _open(browser, NARROW)
        page.goto(server.url)
        page.get_by_role("tab", name="Models").click()
        playwright.expect(page.locator("#list .model")).to_have_count(4)
        cards = {text.split("\n")[0].split()[0]: text for text in page.locator("#list .model").all_inner_texts()}
        for name, loss in (("checked", "+10.0% (+5.0% to +15.0%)"), ("older", "+10.0%")):
            rows = cards[name].split("\n")
            shown = dict(zip(rows, rows[1:], strict=False))
            assert (shown["held-out text"], shown["perplexity"]) == ("4,088 tokens", "6.60, base 6.00")
            assert shown["against the base"] == loss
        assert "held-out" not in cards["plain"] and "held-out" not in cards["base"]
        page.context.close()
