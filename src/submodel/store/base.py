"""The base of a store: found where the store says it is, and known by the digest of its weights."""

from pathlib import Path

from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.errors import SubmodelError
from submodel.store.format import Store


def open_store_base(
    store: Store, base: str | None = None, trust_remote_code: bool = False, opened: dict[str, Base] | None = None
) -> Base:
    """The base of a store, its weights checked against the store's digest.

    Raises SubmodelError when it has moved or is another model.
    """
    reference = base or store.base["reference"]
    if base is None and not Path(reference).exists() and (store.path / reference).exists():
        reference = str(store.path / reference)
    opened = {} if opened is None else opened
    try:
        if reference not in opened:
            opened[reference] = open_base(reference, trust_remote_code)
    except SubmodelError as error:
        if base is not None:
            raise
        raise SubmodelError(f"{store.path}: its base cannot be opened ({error}): give it with --base") from error
    found = opened[reference].sha256
    if found != store.base["sha256"]:
        raise SubmodelError(
            f"{reference}: not the base of {store.path} (weights {found[:12]}, expected "
            f"{store.base['sha256'][:12]}): give the right one with --base"
        )
    return opened[reference]
