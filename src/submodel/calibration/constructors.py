"""Domains in Python: a named set, a repository, a file, a mixture of them.

    domain("python")
    repository("~/work/project", language="python")
    mixture({"python": 2, "java": 1, repository("~/work/project"): 1}, name="coder")

Nothing is read before a domain is loaded with a tokenizer and a budget (`load_domain`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from submodel.calibration.domains import Domain, TextSource
from submodel.calibration.specs import check_part, parse_domains
from submodel.calibration.trees import endings_of
from submodel.errors import SubmodelError


def domain(spec: str, name: str | None = None) -> Domain:
    """A domain as `--domain` spells it.

    Args:
        spec: a named set such as `python`, `NAME=PART[:WEIGHT]+...` for a mixture by tokens, or `NAME=PATH[:LANGUAGE]`
            for a repository.
        name: what its sub-model is called, if not as the spec says.

    Raises:
        SubmodelError: an unknown set, or a weight that is not above 0.
    """
    [result] = parse_domains([spec], {})
    return replace(result, name=name or result.name)


def repository(path: str | Path, language: str | None = None, name: str | None = None) -> Domain:
    """The source files that someone wrote in a directory, without those held out for evaluation.

    Args:
        path: the directory; of a git tree only what git keeps is read.
        language: a key of LANGUAGES; all of them if None.
        name: what its sub-model is called; as the directory if None.

    Raises:
        SubmodelError: no such directory or language.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise SubmodelError(f"{path}: no such directory: give a repository")
    endings_of(language)
    name = name or folder.resolve().name
    return _of_text(TextSource(name, _spec(folder, language), is_repository=True))


def text_file(path: str | Path, column: str | None = None, name: str | None = None) -> Domain:
    """The text of a JSONL (.gz), parquet or text file, or of a source tree as it lies.

    Args:
        path: the file or directory.
        column: the column to read of JSONL and parquet; found by its name if None. Of a directory the language.
        name: what its sub-model is called; as the file, without its endings, if None.

    Raises:
        SubmodelError: no such file.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise SubmodelError(f"{path}: no such file or directory: give JSONL, parquet, text or a source tree")
    return _of_text(TextSource(name or file.resolve().name.partition(".")[0], _spec(file, column)))


def mixture(parts: Mapping[str | Domain, float], name: str) -> Domain:
    """Several texts together.

    Args:
        parts: named sets, or domains of one text, and their weights in tokens.
        name: what the sub-model is called.

    Raises:
        SubmodelError: no parts, an unknown set, a part that is a mixture itself, a name that is there twice, or a
            weight that is not above 0.
    """
    weights: dict[str, float] = {}
    texts: list[TextSource] = []
    for part, weight in parts.items():
        if isinstance(part, str):
            check_part(part)
            part = Domain(part, ((part, 1.0),))
        if len(part.parts) != 1:
            raise SubmodelError(f"mixture {name!r}: {part.name} has {len(part.parts)} parts: give each by itself")
        if not 0 < weight < float("inf"):
            raise SubmodelError(f"mixture {name!r}: weight {weight} of {part.name}: give a number above 0")
        [(source, _)] = part.parts
        if source in weights:
            raise SubmodelError(f"mixture {name!r}: {source} is there twice: give each part a name of its own")
        weights[source] = float(weight)
        texts += part.texts
    if not weights:
        raise SubmodelError(f"mixture {name!r}: no parts: give named sets or domains with their weights")
    return Domain(name, tuple(weights.items()), tuple(texts))


def _of_text(source: TextSource) -> Domain:
    return Domain(source.name, ((source.name, 1.0),), (source,))


def _spec(path: Path, column: str | None) -> str:
    return f"{path}:{column}" if column else str(path)
