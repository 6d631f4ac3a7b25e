"""The README's commands are the command line's, and its Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from submodel import cli
from tests import tiny

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (submodel .*)$", README.replace("\\\n", " "), re.M)]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_every_command_parses(words: list[str]):
    assert cli.parser().parse_args(words).verb == words[0]


def test_there_are_commands():
    assert {words[0] for words in COMMANDS} >= {"extract", "eval", "compare", "info", "generate"}


def test_the_python_runs(llama: Path, tmp_path: Path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(code) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-directory").symlink_to(llama)
    (tmp_path / "sources").mkdir()
    tiny.write_jsonl(tmp_path / "sources" / "text.py", "python", rows=2000)
    exec(compile(code[0].replace("samples=64, seq_len=512", "samples=4, seq_len=64"), "README.md", "exec"), {})
    assert "coder.store" in {f.name for f in tmp_path.iterdir()}
