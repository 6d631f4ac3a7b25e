"""Documents -> token samples within a budget.

Documents are shuffled by the seed, tokenised one by one until the budget is full, cut into pieces of at most
`seq_len` tokens and packed end to end, so that no sample holds padding and many documents take part. Of a mixture
each part is cut by itself, so that a part's documents are the first of those that the part alone would take; its
samples are then spread evenly among those of the others.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from submodel.calibration.documents import Document, Split, Text, read_text
from submodel.calibration.samples import Provenance, Samples
from submodel.errors import SubmodelError


@dataclass(frozen=True)
class Budget:
    """How much text of every domain, and in what shape.

    Attributes:
        seq_len: tokens a sample.
        samples: how many of them; `tokens`, if given, says it instead.
        seed: of the choice of text.
    """

    seq_len: int
    samples: int = 128
    tokens: int | None = None
    seed: int = 0

    @property
    def count(self) -> int:
        """Samples of a packed budget."""
        return self.samples if self.tokens is None else max(1, self.tokens // self.seq_len)


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
        SubmodelError: a part holds fewer tokens than its share, or its share is no token.
    """
    wanted = budget.count * budget.seq_len
    shares = share(wanted, [weight for _, weight in parts])
    pieces = [_cut(text, tokenizer, budget, tokens) for (text, _), tokens in zip(parts, shares, strict=True)]
    ids = torch.tensor(_samples([_stream(part) for part in pieces], budget.seq_len), dtype=torch.int64)
    described = [
        {"name": text.name, "weight": weight, "tokens": tokens, **_describe(text, part)}
        for (text, weight), tokens, part in zip(parts, shares, pieces, strict=True)
    ]
    own = described[0] if len(parts) == 1 else {"path": recipe, "column": None, "split": "mixture", "rows": {}}
    provenance = Provenance(
        path=own["path"],
        column=own["column"],
        split=own["split"],
        seed=budget.seed,
        seq_len=budget.seq_len,
        samples=len(ids),
        tokens=wanted,
        documents=sum(part["documents"] for part in described),
        rows=own["rows"],
        sha256_rows=own.get("sha256_rows", {}),
        sha256_tokens=hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest(),
        about=parts[0][0].about if len(parts) == 1 else {},
        parts=tuple({**part, **text.about} for part, (text, _) in zip(described, parts, strict=True))
        if len(parts) > 1
        else (),
    )
    return Samples(name, ids, provenance)


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
    return sum(len(_tokenise(tokenizer, document.text)) for document in text.documents)


def share(whole: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `whole`, in proportion to the weights but for less than 1 (largest remainders).

    Raises SubmodelError when one of them is 0.
    """
    exact = [whole * weight / sum(weights) for weight in weights]
    found = [int(x) for x in exact]
    behind = sorted(range(len(exact)), key=lambda i: found[i] - exact[i])
    for i in behind[: whole - sum(found)]:
        found[i] += 1
    if not all(found):
        raise SubmodelError(f"{whole:,} tokens leave no token for a part of the mixture: ask for more --tokens")
    return found


def _cut(text: Text, tokenizer: Any, budget: Budget, wanted: int) -> list[_Piece]:
    """Pieces of `wanted` tokens together: of every document one piece, of long ones more where they run out."""
    rng = np.random.default_rng(budget.seed)
    pieces: list[_Piece] = []
    later: list[_Piece] = []  # the other pieces of long documents, for when documents run out
    count = 0
    for index in rng.permutation(len(text.documents)):
        tokens = _tokenise(tokenizer, text.documents[index].text)
        cuts = [_Piece(int(index), tokens[at : at + budget.seq_len]) for at in range(0, len(tokens), budget.seq_len)]
        pieces.append(cuts.pop(int(rng.integers(len(cuts)))))
        later += cuts
        count += len(pieces[-1].tokens)
        if count >= wanted:
            break
    for at in rng.permutation(len(later)) if count < wanted else ():
        pieces.append(later[at])
        count += len(pieces[-1].tokens)
        if count >= wanted:
            break
    if count < wanted:
        raise SubmodelError(
            f"{text.path}: {count:,} tokens in it, {wanted:,} asked ({budget.count} samples of {budget.seq_len}): "
            "give more text or ask for fewer --samples, --tokens or --seq-len"
        )
    last = pieces.pop()
    return [*pieces, replace(last, tokens=last.tokens[: len(last.tokens) + wanted - count])]


def _stream(pieces: list[_Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


def _samples(streams: list[list[int]], seq_len: int) -> list[list[int]]:
    """Samples of one stream each, spread evenly; what is left over of the streams fills the last ones together."""
    placed: list[tuple[float, int, list[int]]] = []
    rest: list[int] = []
    for part, stream in enumerate(streams):
        count = len(stream) // seq_len
        placed += [((k + 0.5) / count, part, stream[k * seq_len : (k + 1) * seq_len]) for k in range(count)]
        rest += stream[count * seq_len :]
    whole = [sample for _, _, sample in sorted(placed, key=lambda entry: entry[:2])]
    return whole + [rest[at : at + seq_len] for at in range(0, len(rest), seq_len)]


def _describe(text: Text, pieces: list[_Piece]) -> dict[str, Any]:
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


def _tokenise(tokenizer: Any, text: str) -> list[int]:
    ids = tokenizer(text, verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids = [*ids, tokenizer.eos_token_id]
    return ids
