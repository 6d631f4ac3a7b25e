"""The text that says which tokens a domain needs: what is counted, and what is held out to say what the others cost.

All of a domain's text is read, far more than calibration reads. Of a source tree or a repository the files that are
held out of every calibration are held out here; of a named set or a file one row in eight, by a hash of its text. Where
that leaves too little, as of one file, the last eighth of every document is held out instead.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submodel.calibration.counting import Counts
from submodel.calibration.documents import Document, NothingLeft, Text, read_text
from submodel.calibration.domains import Domain
from submodel.calibration.packing import Budget, TooLittleText, pack, tokens_in
from submodel.calibration.repository import read_repository
from submodel.calibration.requests import SHARE, read_requests
from submodel.calibration.samples import Samples
from submodel.calibration.trees import is_held_out
from submodel.errors import SubmodelError

HELD_OUT_TOKENS, SEQ_LEN = 16_384, 512  # that a loss is measured on
SAMPLE_TOKENS = 8_192  # of what is counted, that the model reads to say what else it expects
_LEAST_WINDOWS = 8  # of held-out rows or files; with fewer, the ends of documents are held out
_LEAST_TOKENS = 64  # in all
_TAIL = 8  # the last one in so many characters of a document is its end


@dataclass(frozen=True)
class VocabularyText:
    """The text of one domain.

    Attributes:
        name: of the domain.
        counted: texts, and the share of the domain's tokens that each stands for.
        sample: packed samples of what is counted, without the requests.
        held_out: packed samples of the domain; nothing of them is counted.
    """

    name: str
    counted: tuple[tuple[Text, float], ...]
    sample: Samples
    held_out: Samples

    @property
    def digest(self) -> str:
        """Of all that is read."""
        parts = [f"{text.name} {share!r} {text.sha256}\n" for text, share in self.counted]
        return hashlib.sha256("".join([*parts, self.sample.digest, self.held_out.digest]).encode()).hexdigest()

    def describe(self, counts: Sequence[Counts]) -> list[dict[str, Any]]:
        """For the manifest: what was counted, a text each, by rows as `Provenance` has them."""
        described: list[dict[str, Any]] = []
        for (text, share), counted in zip(self.counted, counts, strict=True):
            rows: dict[str, dict[int, str]] = {}
            for place in counted.documents:
                document = text.documents[place]
                rows.setdefault(document.source, {})[document.row] = document.text
            described.append(
                {
                    "name": text.name,
                    "share": round(share, 6),
                    "path": text.path,
                    "column": text.column,
                    "split": text.split,
                    "documents": len(counted.documents),
                    "tokens": counted.tokens,
                    "rows": {source: [*texts] for source, texts in rows.items()},
                    "sha256_rows": {
                        source: hashlib.sha256("".join(texts.values()).encode()).hexdigest()
                        for source, texts in rows.items()
                    },
                    **text.about,
                }
            )
        return described


def read_vocabulary_text(
    domain: Domain,
    tokenizer: Any,
    *,
    data_dir: Path | None = None,
    seq_len: int = SEQ_LEN,
    requests: Callable[[Path | None], Text | None] = read_requests,
) -> VocabularyText:
    """The text of a domain.

    Args:
        domain: what was asked for.
        tokenizer: of the base.
        data_dir: where named sets lie; the hub if None.
        seq_len: tokens a held-out window at most.
        requests: reads what people ask.

    Raises:
        SubmodelError: text that is not there, or too little of it.
    """
    halves = [_split(domain.read(name, data_dir), tokenizer, seq_len) for name, _ in domain.parts]
    weights = [weight / sum(weight for _, weight in domain.parts) for _, weight in domain.parts]
    asked = requests(data_dir)
    share = SHARE if asked else 0.0
    counted = [(text, (1 - share) * weight) for (text, _), weight in zip(halves, weights, strict=True)]
    counted += [(asked, share)] if asked else []
    kept = [(text, weight) for (_, text), weight in zip(halves, weights, strict=True)]
    available = int(min(tokens_in(text, tokenizer) / weight for text, weight in kept))
    if available < _LEAST_TOKENS:
        raise SubmodelError(
            f"{domain.name}: {available} held-out tokens: too little text to say which tokens it needs: give more, or "
            "leave --vocab out"
        )
    seq_len = min(seq_len, available // 2)
    budget = Budget(seq_len, tokens=min(HELD_OUT_TOKENS, available) // seq_len * seq_len)
    held_out = pack(domain.name, kept, tokenizer, budget, domain.recipe)
    read = [(text, weight) for (text, _), weight in zip(halves, weights, strict=True)]
    try:
        budget = Budget(seq_len, tokens=SAMPLE_TOKENS // seq_len * seq_len)
        sample = pack(domain.name, read, tokenizer, budget, domain.recipe)
    except TooLittleText as short:
        sample = pack(domain.name, read, tokenizer, Budget(seq_len, samples=max(1, short.samples - 1)), domain.recipe)
    return VocabularyText(domain.name, tuple(counted), sample, held_out)


def _split(text: Text, tokenizer: Any, seq_len: int) -> tuple[Text, Text]:
    """What is counted of a text, and what is held out."""
    if Path(text.path).is_dir() and text.split == "calibration":
        kept, rest = _held_out_files(text), text
    else:
        kept = replace(text, documents=[d for d in text.documents if is_held_out(d.text)])
        rest = replace(text, documents=[d for d in text.documents if not is_held_out(d.text)])
    if rest.documents and tokens_in(kept, tokenizer) >= _LEAST_WINDOWS * seq_len:
        return rest, kept
    heads = [replace(document, text=document.text[: _end(document)]) for document in text.documents]
    tails = [replace(document, text=document.text[_end(document) :]) for document in text.documents]
    return _with_text(text, heads), _with_text(text, tails)


def _held_out_files(text: Text) -> Text:
    """The held-out files of a source tree or a repository; none where it has none."""
    spec = ":".join(filter(None, (text.path, text.column)))
    read = read_repository if "repository" in text.about else read_text
    try:
        return read(text.name, spec, "held-out")
    except NothingLeft:
        return replace(text, documents=[])


def _end(document: Document) -> int:
    """Where the end of a document begins: at a line's beginning, where there is one in its second half."""
    at = len(document.text) - len(document.text) // _TAIL
    line = document.text.rfind("\n", len(document.text) // 2, at)
    return at if line < 0 else line + 1


def _with_text(text: Text, documents: list[Document]) -> Text:
    return replace(text, documents=[document for document in documents if document.text.strip()])
