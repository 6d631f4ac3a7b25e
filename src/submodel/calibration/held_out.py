"""Text of a domain that its calibration has not read: what an extraction is checked on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from submodel.calibration.documents import NothingLeft, Text, read_text
from submodel.calibration.domains import Domain
from submodel.calibration.packing import Budget, pack, tokens_in
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Samples, parts_of
from submodel.calibration.seen import rows_seen


def held_out(
    domain: Domain,
    samples: Samples,
    tokenizer: Any,
    *,
    tokens: int,
    seq_len: int,
    data_dir: Path | None = None,
) -> Samples | None:
    """Packed samples of a domain that calibration has not seen, its parts weighed as the domain weighs them.

    Of a source tree or a repository these are the files that are held out of every calibration; of a named set or a
    file they are the rows that these samples left.

    Args:
        domain: what was asked for.
        samples: what it was calibrated on.
        tokenizer: of the base.
        tokens: at most so many.
        seq_len: tokens a sample.
        data_dir: as `load_domain` takes it.

    Returns:
        The samples; None where less than two samples of text are left, or the samples do not say where they come from.
    """
    if samples.provenance is None:
        return None
    calibration = samples.provenance.as_dict()
    texts: list[tuple[Text, float]] = []
    for (name, weight), part in zip(domain.parts, parts_of(calibration), strict=True):
        text = _unseen(domain, name, part, calibration, data_dir)
        if text.documents:
            texts.append((text, weight))
    if not texts:
        return None
    share = min(tokens_in(text, tokenizer) / weight for text, weight in texts)
    available = int(share * sum(weight for _, weight in texts))
    if available < 2 * seq_len:
        return None
    budget = Budget(seq_len, tokens=min(tokens, available // seq_len * seq_len))
    return pack(samples.name, texts, tokenizer, budget, domain.recipe)


def _unseen(
    domain: Domain, name: str, part: Mapping[str, Any], calibration: Mapping[str, Any], data_dir: Path | None
) -> Text:
    """What a part of a domain has beside what calibration read of it."""
    spec = ":".join(filter(None, (part["path"], part["column"])))
    if Path(part["path"]).is_dir() and name in {text.name for text in domain.texts}:
        read = read_repository if "repository" in part else read_text
        try:
            return read(name, spec, "held-out")
        except NothingLeft:  # a repository of few files may hold none out
            return Text(name, [], part["path"])
    text = domain.read(name, data_dir)
    seen = rows_seen(calibration, text)
    documents = [document for document in text.documents if document.row not in seen.get(document.source, set())]
    return replace(text, documents=documents)
