"""The README's session is run on a tiny model, and so is its Python."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from submodel import cli
from submodel.base import native
from submodel.store import Store
from submodel.tasks.rows import read_rows
from tests import tiny

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^\$ (submodel .*)$", README.replace("\\\n", " "), re.M)]
DATA = ["--data-dir", "data"]
SMALL = {  # what a tiny model and little text need beside the words of the page
    "extract": [*DATA, "--tokens", "1024", "--seq-len", "64"],
    "eval": [*DATA, "--tokens", "512", "--seq-len", "64"],
    "generate": ["--max-tokens", "4"],
}


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:60])
def test_every_command_parses(words: list[str]):
    assert cli.parser().parse_args(words).verb == words[0]


def test_the_session_has_six_commands():
    assert [words[0] for words in COMMANDS] == ["extract", "info", "eval", "compare", "generate", "serve"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session takes place: a tiny model under the name of the page's, text of its domains, and no hub."""
    folder = tmp_path_factory.mktemp("session")
    extract = COMMANDS[0]
    tiny.save("llama", folder / extract[1])
    for language in (word for before, word in zip(extract, extract[1:], strict=False) if before == "--domain"):
        for split in ("train", "test"):
            texts = folder / f"{language}-{split}.jsonl"
            tiny.write_jsonl(texts, f"{language} {split}")
            rows = [{"whole_func_string": json.loads(line)["text"]} for line in texts.read_text().splitlines()]
            data = folder / f"data/code_search_net/{language}/{split}.jsonl"
            data.parent.mkdir(parents=True, exist_ok=True)
            functions = ({"func_documentation_string": "", "func_code_string": "", **row} for row in rows)
            data.write_text("".join(json.dumps(row) + "\n" for row in functions))
    return folder


def test_the_session_runs(folder: Path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for words in COMMANDS[:-1]:
        assert cli.main([*words, *SMALL.get(words[0], [])]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out.strip(), words
    assert sorted(Store(Path("coder.store")).names) == ["java", "python"]
    assert len(read_rows(Path("rows.jsonl"))) == 6


def test_the_session_ends_with_a_server(folder: Path):
    """After `test_the_session_runs`, whose store it serves."""
    pytest.importorskip("fastapi")
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    if not (folder / "coder.store").exists():
        pytest.skip("the session did not run")
    command = [sys.executable, "-m", "submodel.cli", *COMMANDS[-1], "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            printed: list[str] = []
            url = None
            for line in server.stdout:  # ends with the process
                printed.append(line)
                if url := re.search(r"http://[\w.:]+", line):
                    break
            assert url, "".join(printed)
            with urllib.request.urlopen(f"{url[0]}/v1/models", timeout=60) as answer:
                names = {model["id"] for model in json.load(answer)["data"]}
            assert names >= {"auto", "base", "java", "python"}
        finally:
            server.terminate()


@pytest.mark.parametrize("page", ["README.md", "docs/guide/start.md"])
def test_the_python_runs(page: str, llama: Path, tmp_path: Path, monkeypatch, capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert len(code) == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-directory").symlink_to(llama)
    (tmp_path / "sources").mkdir()
    tiny.write_jsonl(tmp_path / "sources" / "text.py", "python", rows=2000)
    exec(compile(code[0].replace("samples=64, seq_len=512", "samples=4, seq_len=64"), page, "exec"), {})
    assert "coder.store" in {f.name for f in tmp_path.iterdir()}
