"""The page at / in a browser: chat, two models side by side, the models, what goes wrong; on a desk and on a phone."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from submodel.serve.server import Server
from tests import serving

playwright: Any = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")

WIDE, NARROW = 1100, 390  # px: a desk, a phone
CHAT = "**/v1/chat/completions"
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
