"""Which sub-model of a store a request is for, and what the router knows of their domains."""

import json
from collections.abc import Mapping
from pathlib import Path

from submodel.base.models import Base
from submodel.calibration import parse_spec, read_documents
from submodel.errors import SubmodelError, unknown_name
from submodel.router import Decision, Signals, open_router
from submodel.router.pooled import Pooler
from submodel.router.profile import fit_texts
from submodel.router.threshold import best_threshold, write_threshold
from submodel.store import Store
from submodel.store.base import open_store_base

BASE = "base"
"""What requests that no sub-model should get are labelled with."""


def route(
    store: str | Path,
    text: str,
    *,
    file: str | None = None,
    suffix: str | None = None,
    language: str | None = None,
    threshold: float | None = None,
    default: str | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Decision:
    """Which sub-model of a store answers a request, by which signal, and how sure that is.

    Args:
        store: the store.
        text: the request.
        file: the name of the file that it is about.
        suffix: the text after the gap, where code is to be filled in.
        language: a programming language or a sub-model, as a client's header says it.
        threshold: less confidence goes to the default; the store's, or 0.5, if None.
        default: the sub-model for what is not sure; the base if None.
        base: where the store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with the base run.

    Raises:
        SubmodelError: no such store, an unknown language or default, or the base is needed and not there.
    """
    opened = Store(Path(store))
    router = open_router(opened, _moved(opened, base, trust_remote_code), threshold=threshold, default=default)
    if language and not router.knows(language):
        raise unknown_name("language or sub-model", language, {*router.names, *sum(router.languages.values(), ())})
    return router.choose(Signals(text, file, suffix, language))


def fit_router(
    store: str | Path, texts: Mapping[str, str], *, base: str | None = None, trust_remote_code: bool = False
) -> dict[str, int]:
    """Keep what the text of sub-models' domains looks like, in stores that were made without it.

    Args:
        store: the store.
        texts: the name of a sub-model -> PATH[:COLUMN]; "base": what no sub-model should get.
        base, trust_remote_code: as of `route`.

    Returns:
        Name -> how many documents were read.

    Raises:
        SubmodelError: no such store, sub-model or text.
    """
    opened = Store(Path(store))
    pooler = Pooler(open_store_base(opened, base, trust_remote_code))
    counts: dict[str, int] = {}
    with opened.lock():
        for name, spec in texts.items():
            if name != BASE:
                opened.manifest(name)  # refuses an unknown name before any text is read
            documents = [document.text for document in read_documents(*parse_spec(spec))]
            fit_texts(opened, pooler, None if name == BASE else name, documents)
            counts[name] = len(documents)
    return counts


def fit_threshold(
    store: str | Path, requests: str | Path, *, base: str | None = None, trust_remote_code: bool = False
) -> tuple[float, int]:
    """Keep the threshold that routes one's own requests best.

    Args:
        store: the store.
        requests: JSON lines with "text" and "name", null for the base.
        base, trust_remote_code: as of `route`.

    Returns:
        The threshold, and by how many requests.

    Raises:
        SubmodelError: no such store, file or sub-model, or a line that is none of these.
    """
    file, opened = Path(requests), Store(Path(store))
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        labelled = [(str(row["text"]), row["name"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SubmodelError(
            f'{file}: give JSON lines with "text" and "name" ({type(error).__name__}: {error})'
        ) from error
    router = open_router(opened, _moved(opened, base, trust_remote_code))
    scored: list[tuple[dict[str, float], str]] = []
    for text, name in labelled:
        if name is not None and name not in router.names:
            raise unknown_name(f"sub-model in {file}", name, router.names)
        scored.append((router.choose(Signals(text)).scores, BASE if name is None else router.same[name]))
    threshold = best_threshold(scored)
    with opened.lock():
        write_threshold(opened, threshold, len(scored))
    return threshold, len(scored)


def _moved(store: Store, base: str | None, trust_remote_code: bool) -> Base | None:
    """The base where it has to be opened in another way than the store says."""
    return open_store_base(store, base, trust_remote_code) if base or trust_remote_code else None
