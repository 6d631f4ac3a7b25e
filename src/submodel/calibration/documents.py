"""Documents: the rows of JSONL and parquet, text files, the files of a source tree."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from submodel.calibration.sets import read_jsonl
from submodel.calibration.trees import read_tree
from submodel.errors import SubmodelError

Split = Literal["calibration", "held-out"]

_COLUMNS = ("text", "content", "prompt", "code")


class NoText(SubmodelError):
    """Files of which no text is left, at least not in the part that was asked for."""


@dataclass(frozen=True)
class Document:
    """One text: `row` counts the rows of the file `source`; a source file has the one row 0."""

    source: str
    row: int
    text: str


@dataclass(frozen=True)
class Text:
    """Documents and where they come from.

    Attributes:
        name: what they are called in a mixture.
        path, column, split, about: as in `Provenance`.
    """

    name: str
    documents: list[Document]
    path: str
    column: str | None = None
    split: str = "all"
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """The digest of its texts in their order."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(hashlib.sha256(document.text.encode()).digest())
        return digest.hexdigest()


def parse_spec(spec: str) -> tuple[Path, str | None]:
    """`PATH[:COLUMN]` -> (path, column). A path that exists with its colon wins."""
    path, colon, column = spec.rpartition(":")
    if colon and path and not Path(spec).exists() and "/" not in column:
        return Path(path).expanduser(), column
    return Path(spec).expanduser(), None


def read_text(name: str, spec: str, split: Split = "calibration") -> Text:
    """`PATH[:COLUMN]` -> its documents. Raises SubmodelError as `read_documents` does."""
    path, column = parse_spec(spec)
    return Text(name, read_documents(path, column, split), str(path), column, split if path.is_dir() else "all")


def read_documents(path: Path, column: str | None = None, split: Split = "calibration") -> list[Document]:
    """Every document of a JSONL (.gz), parquet or text file, or of a source tree.

    Args:
        path: the file or directory.
        column: the column to read, COLUMN,COLUMN for several that are joined by line ends, or for a directory the
            language (a key of LANGUAGES; all of them if None).
        split: which part of a source tree; files are read whole.

    Raises:
        SubmodelError: nothing there, no such column or language, or no text in it.
    """
    if path.is_dir():
        documents = [Document(file, 0, text) for file, text in read_tree(path, column, split == "held-out")]
    elif not path.is_file():
        raise SubmodelError(f"{path}: no such file or directory: give JSONL, parquet, text or a source tree")
    else:
        name = path.name.removesuffix(".gz")
        if name.endswith((".jsonl", ".json", ".ndjson")):
            documents = list(_read_rows(path, read_jsonl(path), column))
        elif name.endswith(".parquet"):
            documents = list(_read_rows(path, _parquet_rows(path), column))
        elif column is not None:
            raise SubmodelError(f"{path}: a text file has no column {column!r}: give the path alone")
        else:
            documents = [Document(str(path), 0, _text_of(path))]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise NoText(f"{path}: no text in it{f' under {column!r}' if column else ''}: give a file with text")
    return documents


def _text_of(path: Path) -> str:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    try:
        with opened as f:
            return f.read()
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise SubmodelError(f"{path}: not UTF-8 text ({error}): give JSONL, parquet, text or a source tree") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise SubmodelError(f"{path}: parquet needs pyarrow: pip install submodel[parquet], or give JSONL") from error

    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise SubmodelError(f"{path}: not a parquet file ({error})") from error


def _read_rows(path: Path, rows: Iterable[dict[str, Any]], column: str | None) -> Iterator[Document]:
    for number, row in enumerate(rows):
        if column is None:
            texts = [name for name, value in row.items() if isinstance(value, str)]
            column = next((name for name in _COLUMNS if name in texts), texts[0] if len(texts) == 1 else None)
            if column is None:
                raise SubmodelError(f"{path}: which column? it has {', '.join(row)}: give PATH:COLUMN")
        columns = [column] if column in row else column.split(",")
        for name in columns:
            if name not in row:
                raise SubmodelError(f"{path}, row {number}: no column {name!r}; it has {', '.join(row)}")
            if not isinstance(row[name], str):
                raise SubmodelError(f"{path}, row {number}: column {name!r} is not text: name a text column")
        text = "\n".join(row[name] for name in columns)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON may spell it
            raise SubmodelError(f"{path}, row {number}: half of a surrogate pair: not Unicode text") from error
        yield Document(str(path), number, text)
