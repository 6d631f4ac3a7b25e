"""What a store keeps for routing: vectors of each sub-model's texts, and of what belongs to nobody.

`submodels/NAME/routing.safetensors` and `routing.safetensors` (docs/reference/format.md). A sub-model's file depends on
the base and on its own texts alone, so sub-models come and go without a new fit of the others.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from submodel.base.weights import write_tensors
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.router import background, prompts
from submodel.router.languages import SPOKEN, languages_of, subject_of
from submodel.router.pooled import BLOCKS, Pooler
from submodel.store import Store

FORMAT = 1
PIECES, REQUESTS, STUBS = 300, 200, 150  # texts of each kind
_SEED = 0
_POOLING = "mean over distinct tokens of states of unit root mean square"


@dataclass(frozen=True)
class Profile:
    """One file of vectors.

    Attributes:
        vectors: kind of text -> float16 (texts, size).
        languages: programming languages it is for, the most important first.
    """

    vectors: dict[str, np.ndarray]
    languages: tuple[str, ...] = ()


def make(pooler: Pooler, documents: Sequence[str], subject: str | None, languages: Sequence[str]) -> Profile:
    """The profile of a domain.

    Args:
        pooler: of the base.
        documents: its calibration text.
        subject: "code", "translation" or None.
        languages: its programming languages.
    """
    spoken = SPOKEN.get(languages[0], languages[0]) if languages else None
    kinds = {
        "documents": prompts.pieces(documents, PIECES, _SEED),
        "requests": prompts.requests(documents, subject, spoken, REQUESTS, _SEED),
    }
    if subject == "code" and languages and languages[0] in SPOKEN:
        kinds["stubs"] = prompts.stubs(documents, background.lines()[0], languages[0], STUBS, _SEED)
    return Profile({kind: _half(pooler.pool_all(texts)) for kind, texts in kinds.items() if texts}, tuple(languages))


def make_background(pooler: Pooler) -> Profile:
    """What belongs to no sub-model; `code.LANGUAGE` is of requests that ask for a language."""
    kinds = {kind: _half(pooler.pool_all(texts)) for kind, texts in background.texts().items()}
    return Profile(kinds)


def documents_of(samples: Samples, tokenizer: Any) -> list[str]:
    """The documents in packed token samples, as text; what a sample's end cuts off is a document too."""
    documents: list[str] = []
    for row, length in zip(samples.ids.tolist(), samples.sizes, strict=True):
        document: list[int] = []
        for token in [*row[:length], tokenizer.eos_token_id]:
            if token == tokenizer.eos_token_id:
                documents.append(tokenizer.decode(document, skip_special_tokens=True))
                document = []
            else:
                document.append(token)
    return [text for text in documents if len(text.strip()) > 20]


def write(store: Store, name: str | None, profile: Profile) -> None:
    """Put a sub-model's profile, or the background's (None), into the store, in place of an older one."""
    file = store.routing_file(name)
    metadata = {
        "format": str(FORMAT),
        "base": store.base["sha256"],
        "blocks": str(BLOCKS),
        "pooling": _POOLING,
        "languages": json.dumps(profile.languages),
    }
    tensors = {kind: torch.from_numpy(vectors) for kind, vectors in profile.vectors.items()}
    partial = file.with_name(f".{file.name}.partial")
    write_tensors(partial, tensors, metadata)
    os.replace(partial, file)


def read(store: Store, name: str | None) -> Profile | None:
    """A sub-model's profile, or the background's (None); None where there is none.

    Raises SubmodelError when it is damaged, or of another version or base.
    """
    file = store.routing_file(name)
    if not file.is_file():
        return None
    again = f"fit the router again: submodel route {store.path} --fit {name or 'NAME'}=PATH"
    try:
        with safe_open(file, framework="numpy", backend="pread") as f:
            metadata: Mapping[str, str] = f.metadata() or {}
            vectors = {kind: f.get_tensor(kind) for kind in f.keys()}
    except (SafetensorError, OSError) as error:
        raise SubmodelError(f"{file}: cut short or damaged ({error}): {again}") from error
    if (metadata.get("format"), metadata.get("blocks"), metadata.get("pooling")) != (
        str(FORMAT),
        str(BLOCKS),
        _POOLING,
    ):
        raise SubmodelError(f"{file}: its format is {metadata.get('format')}, this version reads {FORMAT}: {again}")
    if metadata.get("base") != store.base["sha256"]:
        raise SubmodelError(f"{file}: of another base than the store's: {again}")
    shapes = {v.shape[1:] for v in vectors.values()}
    if not vectors or len(shapes) != 1 or any(v.ndim != 2 or v.dtype != np.float16 for v in vectors.values()):
        raise SubmodelError(f"{file}: altered: not vectors of one size: {again}")
    if not all(np.isfinite(v).all() for v in vectors.values()):
        raise SubmodelError(f"{file}: altered: a vector is not finite: {again}")
    return Profile(vectors, tuple(json.loads(metadata.get("languages", "[]"))))


def is_fitted(store: Store, name: str) -> bool:
    """Whether a sub-model and the background have their profiles."""
    return store.routing_file(name).is_file() and store.routing_file().is_file()


def fit_samples(store: Store, pooler: Pooler, name: str, samples: Samples) -> None:
    """Write the profile of a sub-model of the store from its calibration samples, if they hold text."""
    if documents := documents_of(samples, pooler.tokenizer):
        fit_texts(store, pooler, name, documents)


def fit_texts(store: Store, pooler: Pooler, name: str | None, documents: Sequence[str]) -> None:
    """Write the profile of a sub-model of the store from given texts, and the background's if there is none.

    With None for a name the texts become part of the background: what the base should answer itself.

    Raises SubmodelError when the store has no such sub-model.
    """
    if name is None:
        known, given = make_background(pooler), make(pooler, documents, None, [])
        write(store, None, Profile({**known.vectors, **{f"own.{kind}": v for kind, v in given.vectors.items()}}))
        return
    calibration = store.manifest(name)["calibration"]
    write(store, name, make(pooler, documents, subject_of(name, calibration), languages_of(name, calibration)))
    if not store.routing_file().is_file():
        write(store, None, make_background(pooler))


def _half(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float16)
