"""What each verb imports: the light ones no torch, those that run a model no compiler, and all of it still works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

HEAVY = ("torch", "transformers", "tokenizers", "pyarrow", "datasets", "sklearn", "scipy")
UNUSED = ("sympy", "scipy", "sklearn", "accelerate", "pandas", "torch.distributed.tensor", "torch._inductor")
REPORT = (
    "import atexit, json, sys; "
    "atexit.register(lambda: print('\\n' + json.dumps(sorted(sys.modules)))); "
    "sys.argv = ['submodel', *sys.argv[1:]]; from submodel import cli; sys.exit(cli.main())"
)


def imported(*words: object) -> tuple[set[str], str]:
    """The modules that a command has imported when it ends, and what it printed."""
    command = [sys.executable, "-c", REPORT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    return set(json.loads(modules)), text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    model = tiny.save("llama", folder / "model")
    text = folder / "text.txt"
    text.write_text("\n\n".join(f"def f{i}(a, b): return a * {i} + b" for i in range(400)))
    out = folder / "a.store"
    imported("extract", model, "--calibration", f"code={text}", "--out", out, "--tokens", 512, "--effort", "quick")
    return out


@pytest.mark.parametrize("words", [["--help"], ["list"], ["info"], ["generate", "--help"], ["extract", "--help"]])
def test_a_light_verb_imports_no_torch(store: Path, words: list[str]):
    given = {"list": [store], "info": [f"{store}@code"]}.get(words[0], [])
    modules, text = imported(*words, *given)
    assert modules.isdisjoint(HEAVY), sorted(modules & set(HEAVY))
    assert text


@pytest.mark.parametrize("words", [["list"], ["info"]])
def test_a_light_verb_says_the_same_as_the_package(store: Path, words: list[str]):
    """Sizes in memory too, which the packed formats tell."""
    _, text = imported(*words, "--json", store if words == ["list"] else f"{store}@code")
    script = f"import json, submodel; print(json.dumps(submodel.info('{store}@code').memory_bytes))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    sizes = json.loads(text)["memory_bytes"]
    assert json.loads(done.stdout) == (sizes["code"] if words == ["list"] else sizes) != {}


@pytest.mark.parametrize("options", [[], ["--format", "int8"], ["--format", "int4"]])
def test_generate_imports_no_compiler_and_says_the_same(store: Path, options: list[str]):
    words = ["--prompt", "def f", "--max-tokens", "12"]
    modules, text = imported("generate", f"{store}@code", *words, *options)
    assert modules.isdisjoint(UNUSED), sorted(modules & set(UNUSED))
    script = (
        "import submodel, torch._dynamo\n"  # the package finds torch and transformers as they are
        f"print(submodel.generate('{store}@code', 'def f', max_tokens=12, format={(options or [None])[-1]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert text.rstrip("\n") == done.stdout.rstrip("\n")


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", "mixtral", "opt", "phi3"])
def test_generate_starts_lean_in_every_kind_of_family(family: str, tmp_path: Path):
    """Sliding windows, experts, fused matrices, learned positions."""
    model = tiny.save(family, tmp_path / family)
    modules, text = imported("generate", model, "--prompt", "a b", "--max-tokens", "4", "--json")
    assert modules.isdisjoint(("sympy", "scipy", "torch.distributed.tensor"))
    script = f"import submodel; print(submodel.generate({str(model)!r}, 'a b', max_tokens=4), end='')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(text)["text"] == done.stdout


def test_the_compiler_is_there_for_what_asks_for_it():
    script = (
        "from submodel.cli.lean_imports import import_transformers; import_transformers(); import sys, torch\n"
        "assert 'sympy' not in sys.modules\n"
        "assert torch.compiler.disable(len)([1]) == 1 and 'sympy' not in sys.modules\n"
        "assert torch._dynamo.config.cache_size_limit and 'sympy' in sys.modules\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(2)).tolist() == [1, 1]\n"
        "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex as real\n"
        "from transformers import masking_utils\n"
        "assert isinstance(masking_utils.TransformGetItemToIndex(), real)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
