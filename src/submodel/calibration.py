"""Text to calibrate on, from files or a source tree: documents -> packed token samples, with their provenance.

Documents are shuffled by the seed, tokenised one by one until the budget is full, cut into pieces of at most
`seq_len` tokens and packed end to end, so that no sample holds padding and many documents take part. Of a source
tree one file in eight, chosen by a hash of its content, is held out: calibration never reads it, evaluation
reads nothing else.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from submodel.errors import SubmodelError, unknown_name

Split = Literal["calibration", "held-out"]

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
_SKIPPED_DIRS = {"__pycache__", "node_modules", "site-packages", "dist-packages", "venv"}
_LARGEST_SOURCE = 1 << 20
_COLUMNS = ("text", "content", "prompt", "code")
_HELD_OUT = 8  # one source file in this many


@dataclass(frozen=True)
class Document:
    """One text: `row` counts the rows of the file `source`; a source file has the one row 0."""

    source: str
    row: int
    text: str


@dataclass(frozen=True)
class Provenance:
    """Where samples come from; goes into the manifest as it is.

    Attributes:
        path, column, split: what was read (`column` is the language for a source tree).
        rows: file -> the row indices that take part.
        sha256_rows: file -> SHA-256 over the texts of those rows.
        tokens, documents: how much took part.
        sha256_tokens: SHA-256 of the samples, int64 little-endian, row-major.
    """

    path: str
    column: str | None
    split: str
    seed: int
    seq_len: int
    samples: int
    tokens: int
    documents: int
    rows: dict[str, list[int]]
    sha256_rows: dict[str, str]
    sha256_tokens: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Samples:
    """Token samples of one domain: `ids` int64 (samples, seq_len).

    `lengths`, if there, says how many tokens of each sample are real; the rest is padding, which is never
    computed. Packed samples have no padding and no lengths. `openings`, if there, int64 (count,), are tokens that
    each open a sequence of their own (see `with_openings`).
    """

    name: str
    ids: torch.Tensor
    provenance: Provenance | None = None
    lengths: tuple[int, ...] | None = None
    openings: torch.Tensor | None = None


def parse_spec(spec: str) -> tuple[Path, str | None]:
    """`PATH[:COLUMN]` -> (path, column). A path that exists with its colon wins."""
    path, colon, column = spec.rpartition(":")
    if colon and path and not Path(spec).exists() and "/" not in column:
        return Path(path).expanduser(), column
    return Path(spec).expanduser(), None


def read_documents(path: Path, column: str | None = None, split: Split = "calibration") -> list[Document]:
    """Every document of a JSONL (.gz), parquet or text file, or of a source tree.

    Args:
        path: the file or directory.
        column: the column to read, or for a directory the language (a key of LANGUAGES; all of them if None).
        split: which part of a source tree; files are read whole.

    Raises:
        SubmodelError: nothing there, no such column or language, or no text in it.
    """
    if path.is_dir():
        documents = list(_read_tree(path, column, split))
    elif not path.is_file():
        raise SubmodelError(f"{path}: no such file or directory: give JSONL, parquet, text or a source tree")
    else:
        name = path.name.removesuffix(".gz")
        if name.endswith((".jsonl", ".json", ".ndjson")):
            documents = list(_read_rows(path, _jsonl_rows(path), column))
        elif name.endswith(".parquet"):
            documents = list(_read_rows(path, _parquet_rows(path), column))
        elif column is not None:
            raise SubmodelError(f"{path}: a text file has no column {column!r}: give the path alone")
        else:
            documents = [Document(str(path), 0, _text_of(path))]
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise SubmodelError(f"{path}: no text in it{f' under {column!r}' if column else ''}: give a file with text")
    return documents


def pack_documents(
    name: str,
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    path: str,
    column: str | None = None,
    split: str = "calibration",
) -> Samples:
    """Pack documents into `samples` samples of `seq_len` tokens each.

    Raises:
        SubmodelError: the documents hold fewer tokens.
    """
    documents = list(documents)
    rng = np.random.default_rng(seed)
    wanted = samples * seq_len
    pieces: list[tuple[int, list[int]]] = []  # (document, tokens)
    later: list[tuple[int, list[int]]] = []  # the other pieces of long documents, for when documents run out
    count = 0
    for index in rng.permutation(len(documents)):
        tokens = _tokenise(tokenizer, documents[index].text)
        cuts = [tokens[at : at + seq_len] for at in range(0, len(tokens), seq_len)]
        first = int(rng.integers(len(cuts)))
        pieces.append((int(index), cuts.pop(first)))
        later += [(int(index), cut) for cut in cuts]
        count += len(pieces[-1][1])
        if count >= wanted:
            break
    for at in rng.permutation(len(later)) if count < wanted else ():
        pieces.append(later[at])
        count += len(later[at][1])
        if count >= wanted:
            break
    if count < wanted:
        raise SubmodelError(
            f"{path}: {count:,} tokens in it, {wanted:,} asked ({samples} samples of {seq_len}): "
            "give more text or ask for fewer --samples, --tokens or --seq-len"
        )
    stream = [token for _, piece in pieces for token in piece][:wanted]
    ids = torch.tensor(stream, dtype=torch.int64).reshape(samples, seq_len)
    used = [documents[index] for index in sorted({index for index, _ in pieces})]
    rows: dict[str, list[int]] = {}
    for document in used:
        rows.setdefault(document.source, []).append(document.row)
    digests = {source: hashlib.sha256() for source in rows}
    for document in used:
        digests[document.source].update(document.text.encode())
    provenance = Provenance(
        path=path,
        column=column,
        split=split,
        seed=seed,
        seq_len=seq_len,
        samples=samples,
        tokens=wanted,
        documents=len(used),
        rows=rows,
        sha256_rows={source: digest.hexdigest() for source, digest in digests.items()},
        sha256_tokens=hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest(),
    )
    return Samples(name, ids, provenance)


def load_samples(
    name: str, spec: str, tokenizer: Any, *, samples: int, seq_len: int, seed: int, split: Split = "calibration"
) -> Samples:
    """`PATH[:COLUMN]` -> packed samples (see `read_documents` and `pack_documents`)."""
    path, column = parse_spec(spec)
    documents = read_documents(path, column, split)
    return pack_documents(
        name,
        documents,
        tokenizer,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
        path=str(path),
        column=column,
        split=split if path.is_dir() else "all",
    )


def with_openings(samples: Samples, count: int, vocabulary: int) -> Samples:
    """Add sequences of one token, as what a sequence may open with.

    Many models park attention on the first token, whose hidden state some early block makes huge, whatever the token
    is. Calibration text shows as many first tokens as it has samples; a model pruned by it may fail on any other. The
    first position sees nothing but its own token, so one-token sequences show it completely.

    Args:
        samples: packed samples.
        count: how many tokens: the most frequent ones of the samples, then others at random (seed 0).
        vocabulary: tokens are below this.
    """
    tokens, uses = samples.ids.unique(return_counts=True)
    found = tokens[uses.argsort(descending=True, stable=True)]
    others = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0))
    others = others[~torch.isin(others, found)]
    return replace(samples, openings=torch.cat([found, others])[:count])


def _tokenise(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids = [*ids, tokenizer.eos_token_id]
    return ids


def is_held_out(text: str) -> bool:
    """Whether a source file with this content is held out for evaluation."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % _HELD_OUT == 0


def _read_tree(root: Path, language: str | None, split: Split) -> Iterator[Document]:
    if language is not None and language not in LANGUAGES:
        raise unknown_name("language", language, LANGUAGES)
    endings = LANGUAGES[language] if language else tuple(e for group in LANGUAGES.values() for e in group)
    seen: set[str] = set()
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _SKIPPED_DIRS)
        for name in sorted(files):
            file = Path(folder) / name
            if not name.endswith(endings) or file.stat().st_size > _LARGEST_SOURCE:
                continue
            try:
                text = file.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text not in seen and is_held_out(text) == (split == "held-out"):
                seen.add(text)
                yield Document(str(file.relative_to(root)), 0, text)


def _text_of(path: Path) -> str:
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    try:
        with opened as f:
            return f.read()
    except (UnicodeDecodeError, OSError) as error:
        raise SubmodelError(f"{path}: not UTF-8 text ({error}): give JSONL, parquet, text or a source tree") from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text_of(path).split("\n")):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SubmodelError(f"{path}, line {number + 1}: not JSON ({error}): give one object a line") from error
            if not isinstance(row, dict):
                raise SubmodelError(f"{path}, line {number + 1}: not a JSON object: give one object a line")
            yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.lib
    import pyarrow.parquet

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
        if column not in row:
            raise SubmodelError(f"{path}, row {number}: no column {column!r}; it has {', '.join(row)}")
        if not isinstance(row[column], str):
            raise SubmodelError(f"{path}, row {number}: column {column!r} is not text: name a text column")
        yield Document(str(path), number, row[column])
