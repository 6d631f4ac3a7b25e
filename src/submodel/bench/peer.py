"""llama.cpp beside us: its files of the base, its process, its rows."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from submodel.base.gguf.parts import read_parts
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.bench.child import Child
from submodel.bench.contender import Contender
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.runtime import Loaded
from submodel.tasks.cell import Cell, Settings, Task
from submodel.tasks.perplexity import perplexity_rows
from submodel.tasks.rows import Row, read_rows

TYPES = ("BF16", "Q8_0", "Q4_0")
"""What llama.cpp is measured at."""

_WORKER = Path(__file__).with_name("llama.py")


def command(python: str = sys.executable) -> list[str]:
    """The program of a child that runs llama.cpp."""
    return [python, str(_WORKER)]


def _version(python: str) -> str | None:
    """Of the llama-cpp-python that an interpreter has, or None."""
    child = Child("llama.cpp", command(python), 1)
    try:
        return str(child.ask("version")["version"])
    except SubmodelError:
        return None
    finally:
        child.close()


def llama_contenders(
    bases: Mapping[str, Base], python: str, gguf: str | None, out: Path, say: Callable[[str], Any]
) -> list[Contender]:
    """llama.cpp at each of TYPES, if it and a GGUF of the base are there; its files are written beside the rows.

    Args:
        bases: the opened bases, by reference; those that are .gguf files themselves need no `gguf`.
        python: the interpreter that may have llama_cpp.
        gguf: a GGUF file of the one base in any type; names, metadata and tokenizer come from it.
        out: the rows' file; OUT.gguf becomes a folder of files, which the next run finds.
        say: told why llama.cpp does not take part, and what is written.

    Raises:
        SubmodelError: a GGUF that is not of this base, or several bases for one.
    """
    if gguf and len(bases) != 1:
        raise SubmodelError(f"--gguf {gguf} is of one base, and there are {len(bases)}: compare them one by one")
    files = {reference: gguf or (reference if reference.endswith(".gguf") else None) for reference in bases}
    for reference in (reference for reference, file in files.items() if file is None):
        say(f"{reference}: llama.cpp does not take part: give the base as GGUF with --gguf")
    there = {reference: Path(file) for reference, file in files.items() if file is not None}
    for file in there.values():
        if not file.is_file():
            raise SubmodelError(f"{file}: no such file: give the base as GGUF")
    if there and not _version(python):
        say(f"llama.cpp does not take part: {python} has no llama_cpp (pip install llama-cpp-python)")
        return []
    folder = out.with_name(f"{out.name}.gguf")
    return [one for reference, file in there.items() for one in _written(bases[reference], file, folder, python, say)]


def _written(base: Base, gguf: Path, folder: Path, python: str, say: Callable[[str], Any]) -> list[Contender]:
    """The contenders of one base; their files, named by its digest, are written unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {form: folder / f"{base.sha256[:16]}-{form}.gguf" for form in TYPES}
    if not files["BF16"].exists():
        say(f"writing {files['BF16']}")
        refuse_others(base, gguf)
        partial = files["BF16"].with_suffix(".partial")
        write_bf16(gguf, partial)
        os.replace(partial, files["BF16"])
    child = Child("llama.cpp", command(python), os.cpu_count() or 1)
    try:
        for form in TYPES[1:]:
            if not files[form].exists():
                say(f"writing {files[form]}")
                partial = files[form].with_suffix(".partial")
                child.ask("quantise", source=str(files["BF16"]), out=str(partial), form=form)
                os.replace(partial, files[form])
    finally:
        child.close()
    return [Contender("llama.cpp", str(file), form, base.reference) for form, file in files.items()]


def refuse_others(base: Base, file: Path) -> None:
    """The GGUF, rounded to bfloat16, must have the base's weights."""
    other = open_base(str(file))
    names = {target: name for name, target in base.targets(base.skeleton(torch.bfloat16)).items()}
    for name in other.source.names:
        weight = base.source.get(names[name]) if name in names else None
        if weight is not None and not torch.equal(weight.to(torch.bfloat16), other.source.get(name).to(torch.bfloat16)):
            raise SubmodelError(f"{file}: {name} is not that of {base.reference}: give the base's own GGUF")


def write_bf16(source: Path, out: Path) -> None:
    """A GGUF file with every matrix rounded to bfloat16, vectors in float32, and the metadata as it is."""
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, dequantize, quantize

    if len(read_parts(source)) > 1:
        raise SubmodelError(f"{source}: a split GGUF model: join its parts with llama.cpp's gguf-split --merge")
    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = LlamaFileType.MOSTLY_BF16 if name == "general.file_type" else entry.contents()
        inner = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, entry.types[0], sub_type=inner)
    types = [Type.F32 if len(tensor.shape) == 1 else Type.BF16 for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, types, strict=True):
        shape = [int(n) for n in reversed(tensor.shape)]
        size = int(np.prod(shape)) * (4 if kind == Type.F32 else 2)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(reader.tensors, types, strict=True):
        writer.write_tensor_data(quantize(dequantize(tensor.data, tensor.tensor_type), kind))
    writer.close()


def cell(base: Base, form: str, task: Task, settings: Mapping[str, Any], out: Path) -> Cell:
    """What a task is told of llama.cpp's model: rows of the dense base in the format "llama.cpp TYPE"."""
    model: Any = SimpleNamespace(dtype=form)
    loaded = Loaded(base.reference, base, model, None, f"llama.cpp {form}")
    done = frozenset(row.key for row in read_rows(out))
    return Cell(task, loaded, Settings(**settings), out, done, lambda *_: None, lambda _: None)


def quality_rows(child: Child, given: Cell) -> tuple[list[Row], list[Row]]:
    """Perplexity through llama.cpp, on the very tokens that we are measured on and with windows run as a whole, as its
    own program does; no other task is measured there.

    Returns:
        New rows, and those that the file has already.
    """

    def measure(loaded: Loaded, samples: Samples, progress: Callable[[int], Any]) -> np.ndarray:
        losses: Sequence[float] = child.ask("losses", windows=samples.ids.tolist())["losses"]
        return np.array(losses) / (samples.ids.shape[1] - 1)

    if given.task.name not in ("perplexity", "repository") or given.settings.decode:
        return [], []
    old: list[str] = []
    new = list(perplexity_rows(replace(given, already=old.append), measure))
    return new, [row for row in read_rows(given.out) if row.key in old]
