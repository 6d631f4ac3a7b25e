"""Sub-models from store to store: copies that stand by themselves, and room made in a store.

What is copied is masks (and weights of their own, and vocabularies), recipe and what routing keeps; the base stays
where it is. In the new store masks are coded anew, against its own first sub-model; their digests say that they are
the same.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from submodel.errors import SubmodelError
from submodel.store.format import OWN_KEYS, Store, check_names, digest_of_submodel, open_or_create


def copy(models: Sequence[tuple[Store, str]], out: Path, names: Sequence[str] = ()) -> list[str]:
    """Copy sub-models into another store, made if it is not there.

    Args:
        models: store and name of each, all of one base.
        out: the store.
        names: what they are called there; as before if there are none.

    Returns:
        Which of these names were there before, with the same masks: they are left as they are.

    Raises:
        SubmodelError: sub-models of several bases, a name that is taken or there twice, a damaged store, a full disk.
    """
    names = list(names) or [name for _, name in models]
    if len(names) != len(models):
        raise SubmodelError(f"{len(names)} --name for {len(models)} sub-models: give one each or none")
    check_names(names)
    first = models[0][0]
    manifests = [store.manifest(name) for store, name in models]
    for store, name in models:
        if store.base["sha256"] != first.base["sha256"]:
            raise SubmodelError(
                f"{store.path}@{name}: of {store.base['reference']}, {first.path}@{models[0][1]} of "
                f"{first.base['reference']}: a store has one base: copy each to its own"
            )
    created = not out.exists()
    already: list[str] = []
    try:
        target = open_or_create(out, first.base)
        with target.lock():
            for name, manifest in zip(names, manifests, strict=True):
                if (target.path / "submodels" / name / "manifest.json").exists():
                    if digest_of_submodel(target.manifest(name)) != digest_of_submodel(manifest):
                        raise SubmodelError(f"{out}@{name}: another one is there: give another --name")
                    already.append(name)
            for (store, old), name, manifest in zip(models, names, manifests, strict=True):
                if name not in already:
                    recipe = {key: value for key, value in manifest.items() if key not in OWN_KEYS}
                    target.add(name, store.masks(old), recipe, store.vocabulary(old))
                _copy_routing(store, old, target, name)
        return already
    except (OSError, SubmodelError) as error:
        if created:
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, SubmodelError):
            raise
        raise SubmodelError(f"{out}: {error.strerror or error}: free some room, then give the same command") from error


def remove(store: Store, name: str) -> None:
    """Take a sub-model out of its store.

    Raises SubmodelError when there is none of this name, others are coded against it, or the store cannot be written.
    """
    with store.lock():
        store.manifest(name)
        against = [other for other in store.names if store.manifest(other)["masks"]["reference"] == name]
        if against:
            raise SubmodelError(
                f"{store.path}@{name}: {', '.join(against)} are coded by their differences from it: submodel copy "
                "what you keep to another store, or remove them first"
            )
        folder = store.path / "submodels" / name
        gone = folder.with_name(f".{name}.partial")
        shutil.rmtree(gone, ignore_errors=True)
        try:
            os.replace(folder, gone)  # at once: a kill leaves a folder that nobody reads
        except OSError as error:
            raise SubmodelError(f"{folder}: cannot be removed ({error.strerror}): make the store writable") from error
        shutil.rmtree(gone, ignore_errors=True)


def _copy_routing(store: Store, old: str, target: Store, name: str) -> None:
    """What the router keeps of a sub-model and of other text, where the copy has none yet."""
    for file, copied in (
        (store.routing_file(old), target.routing_file(name)),
        (store.routing_file(), target.routing_file()),
    ):
        if file.is_file() and not copied.is_file():
            partial = copied.with_name(f".{copied.name}.partial")
            shutil.copyfile(file, partial)
            os.replace(partial, copied)
