"""Documents: the rows of JSONL and parquet, text files, the files of a source tree."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from submodel.calibration.columns import choose_column, text_of_value
from submodel.calibration.sets import read_jsonl
from submodel.calibration.text_files import LARGEST_TEXT, UNREADABLE, open_text, refuse_unreadable
from submodel.calibration.trees import read_tree
from submodel.errors import SubmodelError

Split = Literal["calibration", "held-out"]

_LOOKED_AT = 1000  # rows that say which column is the text


class NothingLeft(SubmodelError):
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
    documents, left_out = _read(path, column, split)
    about = {"left_out": left_out} if left_out else {}
    return Text(name, documents, str(path), column, split if path.is_dir() else "all", about)


def read_documents(path: Path, column: str | None = None, split: Split = "calibration") -> list[Document]:
    """Every document of a JSONL (.gz), parquet or text file, or of a source tree.

    Args:
        path: the file or directory.
        column: the column to read, COLUMN,COLUMN for several that are joined by line ends, or for a directory the
            language (a key of LANGUAGES; all of them if None). A column holds text, or the turns of conversations.
        split: which part of a source tree; files are read whole.

    Raises:
        SubmodelError: nothing there, no such column or language, or no text in it.
    """
    return _read(path, column, split)[0]


def _read(path: Path, column: str | None, split: Split) -> tuple[list[Document], dict[str, int]]:
    """The documents, and how many files or rows were left out for which reason."""
    left_out: Counter[str] = Counter()
    if path.is_dir():
        files = read_tree(path, column, split == "held-out", left_out)
        documents = [Document(file, 0, text) for file, text in files]
    elif not path.exists():
        raise SubmodelError(f"{path}: no such file or directory: give JSONL, parquet, text or a source tree")
    else:
        refuse_unreadable(path)
        name = path.name.removesuffix(".gz")
        if name.endswith((".jsonl", ".json", ".ndjson")):
            documents = list(_read_rows(path, read_jsonl(path), column, left_out))
        elif name.endswith(".parquet"):
            documents = list(_read_rows(path, _parquet_rows(path), column, left_out))
        elif column is not None:
            raise SubmodelError(f"{path}: a text file has no column {column!r}: give the path alone")
        else:
            documents = [Document(str(path), 0, _text_of(path))]
    readable = [document for document in documents if document.text.strip()]
    if not readable:
        why = f" ({describe_counts(left_out)})" if left_out else ""
        raise NothingLeft(f"{path}: no text in it{f' under {column!r}' if column else ''}{why}: give a file with text")
    left_out["empty"] += len(documents) - len(readable)
    return readable, dict(+left_out)


def describe_counts(left_out: Mapping[str, int]) -> str:
    """Such as `3 null, 1 empty`, the most frequent reason first."""
    return ", ".join(f"{n:,} {reason}" for reason, n in sorted(left_out.items(), key=lambda item: -item[1]))


def _text_of(path: Path) -> str:
    try:
        with open_text(path) as f:
            text = f.read(LARGEST_TEXT + 1)
    except UNREADABLE as error:
        raise SubmodelError(f"{path}: not UTF-8 text ({error}): give JSONL, parquet, text or a source tree") from error
    if len(text) > LARGEST_TEXT:
        raise SubmodelError(f"{path}: more than {LARGEST_TEXT:,} characters: give a part of it")
    if "\0" in text:
        raise SubmodelError(f"{path}: zero bytes in it, so it is no text: give JSONL, parquet, text or a source tree")
    return text


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise SubmodelError(f"{path}: parquet needs pyarrow: pip install submodel[parquet], or give JSONL") from error

    try:
        yield from pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.lib.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SubmodelError(f"{path}: not a parquet file ({error})") from error


def _read_rows(
    path: Path, rows: Iterable[dict[str, Any]], column: str | None, left_out: Counter[str]
) -> Iterator[Document]:
    """A document a row. Rows without a value in the column are counted in `left_out`, as long as others have one."""
    rows = iter(rows)
    first = list(islice(rows, _LOOKED_AT))
    if column is None and first:
        column = choose_column(first, path)
    if column is None:
        return
    columns = [column] if any(column in row for row in first) else column.split(",")
    absent = ""  # the first column that a row lacks, as long as no row has had all
    has_read = False
    for number, row in enumerate(chain(first, rows)):
        texts: list[str] = []
        for name in columns:
            if (value := row.get(name)) in (None, []):  # JSON lines often leave out what is null
                left_out["null" if value is None else "empty"] += 1
                absent = absent or (f"no column {name!r}; it has {', '.join(row)}" if name not in row else "")
                break
            text = text_of_value(value, left_out)
            if text is None:
                raise SubmodelError(
                    f"{path}, row {number}: column {name!r} is neither text nor turns (role and content, from and "
                    "value): name a text column"
                )
            texts.append(text)
        else:
            yield Document(str(path), number, _unicode("\n".join(texts), path, number))
            has_read = True
    if absent and not has_read:
        raise SubmodelError(f"{path}: {absent}")


def _unicode(text: str, path: Path, number: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may spell it
        raise SubmodelError(f"{path}, row {number}: half of a surrogate pair: not Unicode text") from error
    return text
