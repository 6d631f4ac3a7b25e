"""The pages: lengths, links, commands, tables made again; README's commands are run in test_readme.py."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmarks.results import RESULTS, made_again, main
from submodel import cli
from submodel.calibration import ALIASES, DOMAINS
from submodel.errors import SubmodelError
from submodel.tasks import TASKS
from submodel.tasks.rows import append_rows
from tests.test_report import row

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
GUIDE = sorted((ROOT / "docs/guide").glob("*.md"))
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]  # dev/ is a notebook and free of these rules
WORDS = {README: 900, **dict.fromkeys(GUIDE, 800)}
LONGEST_LINE = 120  # characters of prose
# new options and verbs that the pages use already; a name that the command line has is checked like any other
AWAITED: set[str] = set()


def _called(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*[^\n]*\n(.*?)^```$", text, re.M | re.S)


def _prose(text: str) -> str:
    """A page without code blocks, comments and tables."""
    text = re.sub(r"<!-- rows:.*?<!-- end -->|^```.*?^```$|<!--.*?-->", "", text, flags=re.M | re.S)
    return "\n".join(line for line in text.splitlines() if not line.startswith("|"))


def _commands(text: str) -> list[list[str]]:
    """The words after `submodel` of every command line in a page's code blocks."""
    joined = "\n".join(_blocks(text)).replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?submodel (.*)$", joined, re.M)
    return [shlex.split(line, comments=True) for line in lines]


COMMANDS = [(page, words) for page in (README, *GUIDE) for words in _commands(page.read_text())]


@pytest.mark.parametrize("page", WORDS, ids=_called)
def test_a_page_is_short(page: Path):
    assert len(page.read_text().split()) <= WORDS[page]


@pytest.mark.parametrize("page", PAGES, ids=_called)
def test_no_line_of_prose_is_long(page: Path):
    long = [line for line in _prose(page.read_text()).splitlines() if len(line) > LONGEST_LINE]
    assert not long


@pytest.mark.parametrize("page", [README, *GUIDE], ids=_called)
def test_no_interval_outside_the_results(page: Path):
    assert not re.findall(r"[\[(][+-]?\d+(?:\.\d+)?%?(?:, | to |\.\.)[+-]?\d+(?:\.\d+)?%?[\])]", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=_called)
def test_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else (page.parent / file).resolve()
        assert target.exists(), f"{_called(page)}: no {link}"
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings], link


def _verbs() -> dict[str, argparse.ArgumentParser]:
    verbs: Any = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return verbs.choices


def _known(words: list[str]) -> list[str]:
    """A command without the options that are awaited and not there, with their values; nothing of such a verb."""
    verbs = _verbs()
    if words[0] in AWAITED and words[0] not in verbs:
        return []
    own = verbs[words[0]].format_help()
    values = {"--effort"}
    kept: list[str] = []
    skip = False
    for word in words:
        missing = word in AWAITED and word not in own
        if not missing and not skip:
            kept.append(word)
        skip = missing and word in values
    return kept


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else value.stem
)
def test_every_command_parses(page: Path, words: list[str]):
    known = _known(words)
    assert not known or cli.parser().parse_args(known).verb == words[0]


@pytest.mark.parametrize("page", PAGES, ids=_called)
def test_commands_in_sentences_name_verbs_and_options_that_are_there(page: Path):
    verbs = _verbs()
    for text in re.findall(r"`submodel ([a-z][^`]*)`", _prose(page.read_text())):
        verb, *words = text.split()
        assert verb in verbs or verb in AWAITED, f"{_called(page)}: no verb {verb}"
        for word in words:
            option = word.partition("=")[0]
            there = not option.startswith("--") or option in AWAITED or option in verbs[verb].format_help()
            assert there, f"{_called(page)}: {verb} has no {option}"


def test_there_are_commands_in_every_guide():
    python = ROOT / "docs/guide/python.md"  # the API: tests/test_api.py runs its code
    assert {page for page, _ in COMMANDS} | {python} == {README, *GUIDE}


def test_the_reference_is_complete():
    sets = (ROOT / "docs/reference/calibration.md").read_text()
    shown = sets.replace("`, `_", "`, `code_search_net_")
    assert [name for name in [*DOMAINS, *ALIASES] if f"`{name}`" not in shown] == []
    tasks = (ROOT / "docs/reference/tasks.md").read_text()
    assert [name for name in TASKS if name.split("-")[0] not in tasks] == []


def test_files_that_the_tree_speaks_of_are_there():
    """A path of a page in a docstring, a message or a comment is the page's."""
    folders = [ROOT / name for name in ("src", "tests", "benchmarks", "studies", "csrc", "examples")]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in {".py", ".toml", ".h", ".cpp"}]
    for file in files:
        for path in re.findall(r"(?<![\w/])(?:docs|dev)/[\w./-]+\.(?:md|svg)", file.read_text(errors="ignore")):
            assert (ROOT / path).exists(), f"{file.relative_to(ROOT)}: no {path}"


@pytest.mark.parametrize("page", sorted(RESULTS.glob("*.md")), ids=lambda page: page.name)
def test_every_table_of_results_is_what_its_rows_say(page: Path):
    assert made_again(page) == page.read_text(), "run: python -m benchmarks.results"


def test_a_table_is_made_from_rows(tmp_path: Path, capsys):
    append_rows(tmp_path / "rows.jsonl", [row(5.0), row(9.0, "python")])
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- rows: rows.jsonl -->\nold\n<!-- end -->\n\nAfter.\n")
    assert main(["--check", str(page)]) == 1 and "old" in page.read_text()
    assert main([str(page)]) == 0
    text = page.read_text()
    assert "| python | 9.00 [8.00, 10.00] |" in text and "old" not in text and text.endswith("\n\nAfter.\n")
    assert main(["--check", str(page)]) == 0
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_table_that_cannot_be_made(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("<!-- rows: none.jsonl -->\n<!-- end -->\n")
    with pytest.raises(SubmodelError, match="none.jsonl"):
        made_again(page)
    page.write_text("<!-- rows: none.jsonl -->\n")
    with pytest.raises(SubmodelError, match="1 tables begin and 0 end"):
        made_again(page)
