"""The main job on a real model: two sub-models of a 135M model, and what each costs and can do.

    python examples/demo.py FOLDER

FOLDER/model holds the model (examples/fetch_model.py). A Python sub-model is calibrated on the standard library's
sources, a C++ one on the headers that torch installs. One source file in eight is held out of calibration, and
perplexity is taken on those files only: few tokens, so the sub-models are compared on the same windows. Each step is a
command that can be typed as it is printed.
"""

import importlib.util
import shlex
import sys
import sysconfig
from pathlib import Path

from submodel import cli

CALIBRATION = ["--tokens", "16384", "--seq-len", "512"]
EVALUATION = ["--tokens", "8192", "--seq-len", "512"]
PROMPTS = {
    "python": 'def read_lines(path):\n    """Return the lines of a text file without their newlines."""\n',
    "cpp": "// Return the sum of all elements.\ninline int64_t sum(const std::vector<int64_t>& values) {\n",
}


def main(folder: Path) -> None:
    """Run the session, printing every command before its output."""
    base = str(folder / "model" / "smollm2-135m.gguf")
    store = str(folder / "coder.store")
    rows = str(folder / "rows.jsonl")
    python = f"{sysconfig.get_path('stdlib')}:python"
    cpp = f"{_folder_of('torch') / 'include'}:cpp"
    models = [f"{store}@{name}" for name in ("magnitude", "python", "cpp")]
    tasks = ["--task", f"perplexity:{python}", "--task", f"perplexity:{cpp}"]
    calibration = ["--calibration", f"python={python}", "--calibration", f"cpp={cpp}"]
    submodel("extract", base, *calibration, *CALIBRATION, "--out", store)
    submodel("extract", base, "--method", "magnitude", "--out", store)
    submodel("list", store)
    submodel("verify", store)
    submodel("eval", base, *models, *tasks, *EVALUATION, "--out", rows)
    submodel("report", rows, "--against", "cpp")
    submodel("compare", *models[1:])
    for name, prompt in PROMPTS.items():
        submodel("generate", f"{store}@{name}", "--max-tokens", "48", "--prompt", prompt)


def submodel(*words: str) -> None:
    """Print a command and run it, in this process to import torch once; stop at the first that fails."""
    print(f"\n$ submodel {shlex.join(words)}", flush=True)
    status = cli.main(list(words))
    if status:
        sys.exit(status)


def _folder_of(package: str) -> Path:
    """Where it is installed; not imported, as the command line says first how its threads wait."""
    found = importlib.util.find_spec(package)
    assert found and found.origin
    return Path(found.origin).parent


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: demo.py FOLDER")
    main(Path(sys.argv[1]))
