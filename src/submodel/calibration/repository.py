"""Your own repository as text: the source files that someone wrote there, and no others.

A git tree is read as git sees it: tracked files and new ones, without what it ignores; any other directory as it lies.
Left out are files that are vendored, generated, minified, or there twice (but for white space), as the name, the first
lines or .gitattributes (linguist-vendored, linguist-generated) say; links, submodules and what stands for a file that
was not fetched; and what is no text. Licence headers are cut off, so that a model is not
fitted to them. The split into calibration and held-out files is that of `trees`, made on the files as they stand.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from submodel.calibration.documents import Document, NothingLeft, Split, Text, parse_spec
from submodel.calibration.text_files import NoText
from submodel.calibration.trees import LANGUAGES, endings_of, is_held_out, source_text, walk_files
from submodel.errors import SubmodelError

_VENDORED = re.compile(
    r"(^|/)(_?vendor(s|ed)?|third[-_]?party|3rd[-_]?party|node_modules|bower_components|site-packages|"
    r"dist-packages|venv|__pycache__)/",
    re.I,
)
_GENERATED_NAME = re.compile(
    r"(_pb2(_grpc)?\.py|\.pb\.(go|cc|h)|[._-]generated\.\w+|\.g\.\w+|\.designer\.\w+)$|(^|/)moc_"
)
_GENERATED_TEXT = re.compile(
    r"@generated\b|(this|the) (file|code|module|source) (is|was|has been) (auto(matically)?[- ]?)?generated|"
    r"generated.{0,120}do not (edit|modify)|do not (edit|modify).{0,120}generated",
    re.I | re.S,
)
_FIRST_CHARACTERS = 1000
_MINIFIED_NAME = re.compile(r"[.-]min\.\w+$")
_LONG_LINE = 500
_LICENCE = re.compile(r"copyright|licen[cs]e|spdx-|all rights reserved", re.I)
_KEPT_FIRST = re.compile(r"\A(#!.*\n|#.*coding[:=].*\n|<\?php\s*\n)*")
_HASHES = re.compile(r"\s*((?:[ \t]*#(?!!).*(?:\n|\Z))+)")
_SLASHES = re.compile(r"\s*(/\*(?s:.*?)\*/[ \t]*(?:\n|\Z)|(?:[ \t]*//.*(?:\n|\Z))+)")
_HASH_ENDINGS = (".py", ".rb")
_SUBMODULE, _LINK = "160000", "120000"  # modes in git's index


def read_repository(name: str, spec: str, split: Split = "calibration") -> Text:
    """`PATH[:LANGUAGE]` -> one part of a repository's files.

    Raises:
        SubmodelError: no such directory or language, git fails, or no file of this part is left.
    """
    path, language = parse_spec(spec)
    if not path.is_dir():
        raise SubmodelError(f"{path}: no such directory: give a repository as NAME=PATH[:LANGUAGE]")
    endings = endings_of(language)
    commit = _git_commit(path)
    left_out: Counter[str] = Counter()
    files = _git_files(path, endings, left_out) if commit is not None else walk_files(path)
    listed = [file for file in files if file.endswith(endings)]
    languages: Counter[str] = Counter()
    documents: list[Document] = []
    for file, text in _written(path, listed, _git_marked(path, listed) if commit is not None else {}, left_out):
        if is_held_out(text) == (split == "held-out"):
            documents.append(Document(file, 0, without_licence(file, text)))
            languages[language or language_of(file)] += 1
    if not documents:
        why = f" ({', '.join(f'{n} {reason}' for reason, n in left_out.items())})" if left_out else ""
        raise NothingLeft(
            f"{path}: of {len(listed)} {language or 'source'} files none is left{why} in its {split} part: "
            "give a larger repository or another language"
        )
    about = {"commit": commit, "languages": dict(languages), "left_out": dict(left_out)}
    return Text(name, documents, str(path), language, split, {"repository": about})


def language_of(file: str) -> str:
    """The first language of LANGUAGES whose files end so."""
    return next(language for language, endings in LANGUAGES.items() if file.endswith(endings))


def without_licence(file: str, text: str) -> str:
    """A source file without the comments at its head that speak of copyright or licence."""
    first = _KEPT_FIRST.match(text)
    at = first.end() if first else 0
    head, rest = text[:at], text[at:]
    comment = _HASHES if file.endswith(_HASH_ENDINGS) else _SLASHES
    while (header := comment.match(rest)) and _LICENCE.search(header[1]):
        rest = rest[header.end() :].lstrip("\n")
    return head + rest


def is_generated(file: str, text: str) -> bool:
    """Whether a file's name or first lines say that a program wrote it."""
    return bool(_GENERATED_NAME.search(file) or _GENERATED_TEXT.search(text[:_FIRST_CHARACTERS]))


def is_minified(file: str, text: str) -> bool:
    """Whether most of a file stands in lines that no one writes."""
    long = sum(len(line) for line in text.splitlines() if len(line) > _LONG_LINE)
    return bool(_MINIFIED_NAME.search(file)) or 2 * long > len(text)


def _written(
    root: Path, files: Iterable[str], marked: dict[str, str], left_out: Counter[str]
) -> Iterator[tuple[str, str]]:
    """(path, text) of the files that someone wrote; `left_out` counts the others by reason."""
    seen: set[str] = set()
    for file in files:
        if reason := marked.get(file) or ("vendored" if _VENDORED.search(file) else None):
            left_out[reason] += 1
            continue
        try:
            text = source_text(root, file)
        except NoText as error:
            left_out[str(error)] += 1
            continue
        if not text.strip():
            left_out["empty"] += 1
        elif is_generated(file, text):
            left_out["generated"] += 1
        elif is_minified(file, text):
            left_out["minified"] += 1
        elif (words := " ".join(without_licence(file, text).split())) in seen:
            left_out["duplicate"] += 1
        else:
            seen.add(words)
            yield file, text


def _git(root: Path, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    # a repository's own configuration may name programs: none is run
    safe = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    try:
        command = ["git", "-C", str(root), *safe, *words]
        # names of files may be any bytes
        return subprocess.run(command, capture_output=True, encoding="utf-8", errors="surrogateescape", input=given)
    except FileNotFoundError as error:
        raise SubmodelError(f"{root}: a git tree, and there is no git to read it: install git") from error


def _git_commit(root: Path) -> str | None:
    """The commit that a git tree stands at ("" before the first); None for a directory that git does not keep.

    Raises SubmodelError when git refuses to read it.
    """
    if not any((folder / ".git").exists() for folder in (root.resolve(), *root.resolve().parents)):
        return None
    inside = _git(root, "rev-parse", "--is-inside-work-tree")
    if inside.returncode:
        raise SubmodelError(f"{root}: git cannot read it: {' '.join(inside.stderr.split())}")
    if inside.stdout.strip() != "true" or _git(root, "check-ignore", "-q", ".").returncode == 0:
        return None
    return _git(root, "rev-parse", "--verify", "-q", "HEAD").stdout.strip()


def _git_files(root: Path, endings: tuple[str, ...], left_out: Counter[str]) -> list[str]:
    """Tracked files and new ones; submodules, and links that are called like source files, are counted instead.

    What git keeps as a link may lie here as a file that holds where it leads: so the index decides.
    """
    tracked = _git(root, "ls-files", "-z", "--stage", ".").stdout.split("\0")
    kinds = {file: entry[:6] for entry, tab, file in (line.partition("\t") for line in tracked) if tab}
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", ".").stdout.split("\0")
    nested = [file for file in new if file.endswith("/")]  # a repository within this one, which it does not keep
    submodules = sum(kind == _SUBMODULE for kind in kinds.values()) + len(nested)
    links = sum(kind == _LINK and file.endswith(endings) for file, kind in kinds.items())
    left_out.update({name: n for name, n in (("submodule", submodules), ("symbolic link", links)) if n})
    files = [file for file, kind in kinds.items() if kind not in (_SUBMODULE, _LINK)]
    return sorted({*files, *(file for file in new if file and file not in nested)})


def _git_marked(root: Path, files: list[str]) -> dict[str, str]:
    """File -> "vendored" or "generated", where .gitattributes says so."""
    kinds = {"linguist-vendored": "vendored", "linguist-generated": "generated"}
    attributes = _git(root, "check-attr", "-z", "--stdin", *kinds, given="".join(f"{file}\0" for file in files))
    words: list[Any] = attributes.stdout.split("\0")
    triples = zip(words[0::3], words[1::3], words[2::3], strict=False)
    return {file: kinds[name] for file, name, value in triples if value in ("set", "true")}
