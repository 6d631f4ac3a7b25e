"""The source files of a directory, split by content into what is calibrated on and what is held out.

One file in eight, chosen by a hash of its content, is held out: calibration never reads it, evaluation reads nothing
else.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

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


def source_text(file: Path) -> str | None:
    """The text of a source file; None for one that is too large, gone or not UTF-8."""
    try:
        return None if file.stat().st_size > LARGEST_SOURCE else file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def read_tree(root: Path, language: str | None, held_out: bool) -> Iterator[tuple[str, str]]:
    """(path below root, text) of every source file of one part, each content once, in the order of the names."""
    endings = endings_of(language)
    seen: set[str] = set()
    for file in walk_files(root):
        text = source_text(root / file) if file.endswith(endings) else None
        if text is not None and text not in seen and is_held_out(text) == held_out:
            seen.add(text)
            yield file, text


def walk_files(root: Path) -> Iterator[str]:
    """Every file of a directory but those of hidden and installed packages' directories, in the order of the names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_DIRS)
        yield from (str((Path(folder) / name).relative_to(root)) for name in sorted(files))
