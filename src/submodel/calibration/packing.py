"""Pack documents into token samples within a budget.

Documents are shuffled by the seed, tokenised one by one until the budget is full, cut into pieces of at most
`seq_len` tokens and packed end to end, so that no sample holds padding and many documents take part; or each is a
sample of its own. Of a mixture each part is cut by itself, so that a part's documents are the first of those that the
part alone would take; its samples are then spread evenly among those of the others.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from submodel.calibration.documents import Document, Split, Text, read_text
from submodel.calibration.forms import FORMS, Form, raw
from submodel.calibration.samples import Provenance, Samples
from submodel.errors import SubmodelError, unknown_name

SHAPES = ("packed", "document")


class TooLittleText(SubmodelError):
    """A text, at `path`, that does not fill its budget; it would fill one of `samples` samples."""

    def __init__(self, message: str, path: str, samples: int):
        super().__init__(message)
        self.path = path
        self.samples = samples


TOKENS = 32768  # of calibration text by default: masks have settled by then (dev/notebook/calibration.md)
SEQ_LEN = 512  # tokens a sample by default


@dataclass(frozen=True)
class Budget:
    """How much text of every domain, and in what shape.

    Attributes:
        seq_len: tokens a sample, at most.
        samples: how many of them; `tokens`, if given, says it instead.
        seed: of the choice of text.
        shape: "packed": samples are full; "document": each sample is one document, cut off at `seq_len`.
        form: a key of FORMS.
    """

    seq_len: int
    samples: int = 128
    tokens: int | None = None
    seed: int = 0
    shape: str = "packed"
    form: str = "raw"

    @property
    def count(self) -> int:
        """How many samples a packed budget has."""
        return self.samples if self.tokens is None else max(1, self.tokens // self.seq_len)

    @property
    def total_tokens(self) -> int | None:
        """How many tokens in all; None where documents are counted."""
        return self.count * self.seq_len if self.shape == "packed" else self.tokens

    @property
    def unusual(self) -> dict[str, str]:
        """What differs from packed raw text."""
        usual = {"shape": "packed", "form": "raw"}
        return {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}


@dataclass(frozen=True)
class _Piece:
    """Consecutive tokens of one document."""

    document: int
    tokens: list[int]


def pack(name: str, parts: Sequence[tuple[Text, float]], tokenizer: Any, budget: Budget, recipe: str = "") -> Samples:
    """Pack documents into samples.

    Args:
        name: of the domain.
        parts: documents, and their weight in tokens; one part is no mixture.
        tokenizer: of the base.
        budget: how much.
        recipe: of a mixture: how it was asked for.

    Raises:
        TooLittleText: a part holds fewer tokens than its share.
        SubmodelError: a part's share is no token, or its documents cannot have the form asked for.
    """
    if budget.form == "chat":
        raise SubmodelError("form chat has been removed: give raw, for answers in the text of the set itself")
    for kind, given, known in (("shape", budget.shape, SHAPES), ("form", budget.form, FORMS)):
        if given not in known:
            raise unknown_name(kind, given, known)
    if budget.total_tokens is None and len(parts) > 1:
        raise SubmodelError("a mixture with --shape document is by tokens: give --tokens")
    weights = [weight for _, weight in parts]
    shares = [None] if budget.total_tokens is None else share(budget.total_tokens, weights)
    form = FORMS[budget.form](tokenizer)
    pieces = [_cut(text, form, budget, tokens) for (text, _), tokens in zip(parts, shares, strict=True)]
    rows = [[np.array(piece.tokens, dtype=np.int64) for piece in part] for part in pieces]
    samples = _packed([np.concatenate(r) for r in rows], budget.seq_len) if budget.shape == "packed" else _spread(rows)
    lengths = tuple(len(sample) for sample in samples)
    return Samples(
        name,
        _padded(samples),
        _provenance(parts, pieces, samples, budget, recipe),
        lengths=lengths if len(set(lengths)) > 1 else None,
        documents=tuple(
            text.documents[index]
            for (text, _), part in zip(parts, pieces, strict=True)
            for index in sorted({piece.document for piece in part})
        ),
    )


def _provenance(
    parts: Sequence[tuple[Text, float]],
    pieces: Sequence[Sequence[_Piece]],
    samples: Sequence[np.ndarray],
    budget: Budget,
    recipe: str,
) -> Provenance:
    """Where the samples of `pack` come from; of one text what its manifest says of it, of several the parts'."""
    described = [
        {"name": text.name, "weight": weight, "tokens": sum(len(p.tokens) for p in part), **_describe(text, part)}
        for (text, weight), part in zip(parts, pieces, strict=True)
    ]
    single = described[0] if len(parts) == 1 else {"path": recipe, "column": None, "split": "mixture", "rows": {}}
    return Provenance(
        path=single["path"],
        column=single["column"],
        split=single["split"],
        seed=budget.seed,
        seq_len=budget.seq_len,
        samples=len(samples),
        tokens=sum(len(sample) for sample in samples),
        documents=sum(part["documents"] for part in described),
        rows=single["rows"],
        sha256_rows=single.get("sha256_rows", {}),
        sha256_tokens=hashlib.sha256(b"".join(s.astype("<i8").tobytes() for s in samples)).hexdigest(),
        shape=budget.unusual,
        about=parts[0][0].about if len(parts) == 1 else {},
        parts=tuple({**part, **text.about} for part, (text, _) in zip(described, parts, strict=True))
        if len(parts) > 1
        else (),
    )


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
    """Pack documents of one text into `samples` samples of `seq_len` tokens each (see `pack`)."""
    text = Text(name, list(documents), path, column, split)
    return pack(name, [(text, 1)], tokenizer, Budget(seq_len, samples, seed=seed))


def load_samples(
    name: str, spec: str, tokenizer: Any, *, samples: int, seq_len: int, seed: int, split: Split = "calibration"
) -> Samples:
    """`PATH[:COLUMN]` -> packed samples (see `read_documents` and `pack`)."""
    text = replace(read_text(name, spec, split), name=name)
    return pack(name, [(text, 1)], tokenizer, Budget(seq_len, samples, seed=seed))


def tokens_in(text: Text, tokenizer: Any) -> int:
    """How many tokens there are to pack."""
    return sum(len(raw(tokenizer).encode(document)) for document in text.documents)


def share(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to the weights but for less than 1 (largest remainders).

    Raises SubmodelError when one of them is 0.
    """
    exact = [total * weight / sum(weights) for weight in weights]
    shares = [int(x) for x in exact]
    behind = sorted(range(len(exact)), key=lambda i: shares[i] - exact[i])
    for i in behind[: total - sum(shares)]:
        shares[i] += 1
    if not all(shares):
        raise SubmodelError(f"{total:,} tokens leave no token for a part of the mixture: ask for more --tokens")
    return shares


def _cut(text: Text, form: Form, budget: Budget, tokens_needed: int | None) -> list[_Piece]:
    """Pieces of `tokens_needed` tokens together: of every document one piece, of long ones more where they run out.

    As many pieces as the budget has samples if `tokens_needed` is None.
    """
    rng = np.random.default_rng(budget.seed)
    room = budget.seq_len - form.extra
    if room < 1:
        raise SubmodelError(f"--form {budget.form} adds {form.extra} tokens: give a --seq-len above that")
    pieces: list[_Piece] = []
    later: list[_Piece] = []  # the other pieces of long documents, for when documents run out
    count = 0

    def take(piece: _Piece) -> bool:
        """Add a piece; returns whether there are enough now."""
        nonlocal count
        pieces.append(replace(piece, tokens=form.finish(piece.tokens, rng)))
        count += len(pieces[-1].tokens)
        return count >= tokens_needed if tokens_needed is not None else len(pieces) == budget.samples

    full = False
    for index in rng.permutation(len(text.documents)):
        tokens = form.encode(text.documents[index])
        cuts = [_Piece(int(index), tokens[at : at + room]) for at in range(0, len(tokens), room)]
        first = cuts.pop(0 if budget.shape == "document" else int(rng.integers(len(cuts))))
        later += cuts
        full = take(first)
        if full:
            break
    for at in rng.permutation(len(later)) if not full else ():
        full = take(later[at])
        if full:
            break
    if not full:
        request = f"{tokens_needed:,} asked" if tokens_needed is not None else f"{budget.samples} samples asked"
        size = f" ({budget.count} samples of {budget.seq_len})" if budget.shape == "packed" else ""
        raise TooLittleText(
            f"{text.path}: {count:,} tokens in it, {request}{size}: "
            "give more text or ask for fewer --samples, --tokens or --seq-len",
            text.path,
            len(pieces) if tokens_needed is None else budget.count * count // tokens_needed,
        )
    if tokens_needed is None:
        return pieces
    last = pieces.pop()
    return [*pieces, replace(last, tokens=last.tokens[: len(last.tokens) + tokens_needed - count])]


def _packed(streams: list[np.ndarray], seq_len: int) -> list[np.ndarray]:
    """Samples of one stream each; what is left over of the streams fills the last ones together."""
    counts = [len(stream) // seq_len for stream in streams]
    full = [
        [stream[k * seq_len : (k + 1) * seq_len] for k in range(count)]
        for stream, count in zip(streams, counts, strict=True)
    ]
    rest = np.concatenate([stream[count * seq_len :] for stream, count in zip(streams, counts, strict=True)])
    return _spread(full) + [rest[at : at + seq_len] for at in range(0, len(rest), seq_len)]


def _spread(parts: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The samples of several parts, each part's spread evenly over all of them."""
    positions = [((k + 0.5) / len(part), i, k) for i, part in enumerate(parts) for k in range(len(part))]
    return [parts[i][k] for _, i, k in sorted(positions)]


def _padded(rows: list[np.ndarray]) -> torch.Tensor:
    """int64 (rows, the longest one's length); 0 after the end of a shorter one."""
    result = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for padded, row in zip(result, rows, strict=True):
        padded[: len(row)] = row
    return torch.from_numpy(result)


def _describe(text: Text, pieces: Sequence[_Piece]) -> dict[str, Any]:
    """Where pieces come from, as a manifest has it."""
    used = [text.documents[index] for index in sorted({piece.document for piece in pieces})]
    rows: dict[str, list[int]] = {}
    for document in used:
        rows.setdefault(document.source, []).append(document.row)
    digests = {source: hashlib.sha256() for source in rows}
    for document in used:
        digests[document.source].update(document.text.encode())
    return {
        "path": text.path,
        "column": text.column,
        "split": text.split,
        "documents": len(used),
        "rows": rows,
        "sha256_rows": {source: digest.hexdigest() for source, digest in digests.items()},
    }
