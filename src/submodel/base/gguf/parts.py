"""Which files a GGUF model lies in: one, or the parts that llama.cpp's gguf-split has cut it into."""

import glob
import re
from pathlib import Path

from submodel.base.gguf.header import Header, read_header
from submodel.errors import SubmodelError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_PROJECTOR = "mmproj"  # what a vision encoder's file is called beside its model's


def read_parts(file: Path) -> list[Header]:
    """The headers of all files of a model, any of which is given, in their order.

    Raises:
        SubmodelError: a part is missing, or is of another model.
    """
    header = read_header(file)
    count = header.fields.get("split.count", 0)
    if count <= 1:
        return [header]
    match = _PART.fullmatch(file.name)
    number = header.fields.get("split.no", 0) + 1
    if match is None or int(match[3]) != count:
        raise SubmodelError(
            f"{file}: part {number} of {count} of a split model: give its parts the names that they had, "
            f"such as NAME-{number:05d}-of-{count:05d}.gguf, in one directory"
        )
    files = [file.with_name(f"{match[1]}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    absent = [part.name for part in files if not part.is_file()]
    if absent:
        raise SubmodelError(
            f"{file}: one of {count} parts, and {', '.join(absent[:3])} {'is' if len(absent) == 1 else 'are'} not "
            "beside it: fetch all parts"
        )
    headers = [read_header(part) for part in files]
    for i, part in enumerate(headers):
        if part.fields.get("split.no") != i or part.fields.get("split.count") != count:
            raise SubmodelError(f"{part.file}: not part {i + 1} of {count} of {file.name}: fetch all parts again")
    total, said = sum(len(part.tensors) for part in headers), headers[0].fields.get("split.tensors.count")
    if said is not None and said != total:
        raise SubmodelError(f"{file}: its parts hold {total} tensors of {said}: fetch all parts again")
    return headers


def files_of(file: Path) -> list[Path]:
    """The files that are there of the model whose first part, or only file, is given; none for a later part."""
    match = _PART.fullmatch(file.name)
    if match is None:
        return [file]
    return sorted(file.parent.glob(f"{glob.escape(match[1])}-?????-of-{match[3]}.gguf")) if int(match[2]) == 1 else []


def file_in(folder: Path) -> Path | None:
    """The one GGUF model in a directory, by its first file; None if there is none.

    Raises SubmodelError if there are several.
    """
    files = sorted(file for file in folder.glob("*.gguf") if not file.name.startswith(_PROJECTOR))
    first = [file for file in files if (match := _PART.fullmatch(file.name)) is None or int(match[2]) == 1]
    if len(first) > 1:
        names = ", ".join(file.name for file in first[:4])
        raise SubmodelError(f"{folder}: holds {len(first)} .gguf models ({names}): name the one to take")
    return (first or files or [None])[0]
