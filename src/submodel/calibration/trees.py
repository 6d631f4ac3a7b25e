"""The source files of a directory, split by content into what is calibrated on and what is held out.

One file in eight, chosen by a hash of its content, is held out: calibration never reads it, evaluation reads nothing
else.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from submodel.calibration.text_files import NoText, decode, read_regular
from submodel.errors import unknown_name

LANGUAGES: dict[str, tuple[str, ...]] = {
    "python": (".py",),
    "java": (".java",),
    "cpp": (".cpp", ".cc", ".cxx", ".h", ".hpp", ".hh", ".hxx", ".cuh", ".inl"),
    "c": (".c", ".h"),
    "javascript": (".js", ".mjs", ".cjs", ".jsx"),
    "typescript": (".ts", ".tsx"),
    "go": (".go",),
    "rust": (".rs",),
    "ruby": (".rb",),
    "php": (".php",),
}
LARGEST_SOURCE = 1 << 20  # bytes
_SKIPPED_DIRS = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}
_HELD_OUT = 8  # one source file in this many


def is_held_out(text: str) -> bool:
    """Whether a source file with this content is held out for evaluation."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % _HELD_OUT == 0


def endings_of(language: str | None) -> tuple[str, ...]:
    """How the names of a language's files end; of all languages if None. Raises SubmodelError for an unknown one."""
    if language is None:
        return tuple(ending for group in LANGUAGES.values() for ending in group)
    if language not in LANGUAGES:
        raise unknown_name("language", language, LANGUAGES)
    return LANGUAGES[language]


def source_text(root: Path, file: str) -> str:
    """The text of a source file at `file` below `root`.

    No link is followed, neither the file's own nor one on its way: what a link inside the directory leads to is read
    by its own name, and what lies outside was not named. Raises NoText.
    """
    path = os.path.join(os.path.realpath(root), file)
    if os.path.realpath(path) != os.path.normpath(path):
        raise NoText("symbolic link")
    return decode(read_regular(Path(path), LARGEST_SOURCE), file)


def read_tree(root: Path, language: str | None, held_out: bool, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """(path below root, text) of every source file of one part, each content once, in the order of the names.

    `left_out` counts the other source files of both parts by reason.
    """
    endings = endings_of(language)
    seen: set[str] = set()
    for file in walk_files(root):
        if not file.endswith(endings):
            continue
        try:
            text = source_text(root, file)
        except NoText as error:
            left_out[str(error)] += 1
            continue
        if text in seen:
            left_out["duplicate"] += 1
        elif not text.strip():
            left_out["empty"] += 1
        elif is_held_out(text) == held_out:
            yield file, text
        seen.add(text)


def walk_files(root: Path) -> Iterator[str]:
    """Every file of a directory but those of hidden and installed packages' directories, in the order of the names.

    No link to a directory is followed.
    """
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_DIRS)
        yield from (str((Path(folder) / name).relative_to(root)) for name in sorted(files))
