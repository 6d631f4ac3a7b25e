"""Which sub-model of a store a request is for."""

from pathlib import Path

from submodel.errors import unknown_name
from submodel.router import Decision, Signals, open_router
from submodel.store import Store
from submodel.store.base import open_store_base


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
    moved = open_store_base(opened, base, trust_remote_code) if base or trust_remote_code else None
    router = open_router(opened, moved, threshold=threshold, default=default)
    if language and not router.knows(language):
        raise unknown_name("language or sub-model", language, {*router.names, *sum(router.languages.values(), ())})
    return router.choose(Signals(text, file, suffix, language))
