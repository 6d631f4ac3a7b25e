"""Every worked example of docs/reference/adding.md, carried out in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from submodel.base import native

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/reference/adding.md").read_text()
NEEDS_KERNELS = ("An endpoint",)  # of the server's tests
# written for the interface that steps have: until it is there, skipped
AWAITED = {
    "A score": ("prune/scores/__init__.py", "SCORES"),
    "An allocation": ("prune/allocate/__init__.py", "ALLOCATIONS"),
    "A packed format": ("runtime/packed/formats.py", "class Encoding"),
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it writes or changes (none for commands), its text."""

    language: str
    file: str | None
    text: str


def blocks(section: str) -> list[Block]:
    """The fenced blocks of a section, in their order."""
    fences = re.findall(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", section, re.M | re.S)
    return [Block(language, file or None, text) for language, file, text in fences]


def change(text: str, diff: str) -> str:
    """A text with one hunk applied: lines with + are new, lines with - go, the others say where.

    Raises ValueError unless the place is there exactly once.
    """
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    if text.count(before) != 1:
        raise ValueError(f"there {text.count(before)} times:\n{before}")
    return text.replace(before, after)


SECTIONS = {
    title: found
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    if (found := blocks(text))
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the examples touch and run."""
    folder = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "attacks")
    for name in ("src", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_addition_has_an_example():
    linked = re.findall(r"^\| \[.+?\]\(#(.+?)\)", PAGE, re.M)
    assert linked == [title.lower().replace(" ", "-") for title in SECTIONS]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_works(title: str, tree: Path):
    if title in NEEDS_KERNELS and not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    if title in AWAITED:
        module, name = AWAITED[title]
        if name not in (tree / "src/submodel" / module).read_text():
            pytest.skip(f"{module} has no {name} yet")
    commands: list[str] = []
    for block in SECTIONS[title]:
        if block.file is None:
            commands += block.text.splitlines()
            continue
        file = tree / block.file
        if block.language == "diff":
            file.write_text(change(file.read_text(), block.text))
        else:
            assert not file.exists(), f"{block.file} is there already"
            file.write_text(block.text)
    assert commands
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    for command in commands:
        python, *words = shlex.split(command)
        assert python == "python"
        run = subprocess.run(
            [sys.executable, *words, "-p", "no:cacheprovider"],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}{run.stderr}"


def test_a_change_needs_its_place():
    assert change("a\nb\n", " a\n+c\n") == "a\nc\nb\n"
    assert change("a\nb\n", "-a\n+c\n") == "c\nb\n"
    with pytest.raises(ValueError, match="0 times"):
        change("a\nb\n", " d\n+c\n")
