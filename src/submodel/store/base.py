"""The base of a store: where it is looked for, how it is known, and how a new place is recorded.

A base is known by the digest of its weights, wherever it lies. A store that has moved, or whose base has, finds it
beside itself or under the folder that SUBMODEL_HOME names; `rebase` records where it is now.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submodel.base.files import write_json
from submodel.base.gguf.parts import files_of
from submodel.base.models import Base
from submodel.base.opening import base_at, checkpoint_path, is_hub_id, open_base, open_weights
from submodel.base.weights import Source
from submodel.errors import SubmodelError
from submodel.store.format import Store, base_fields

HOME = "SUBMODEL_HOME"
"""The environment variable that names a folder of bases."""

_HEADER_BYTES = 1 << 26  # what a .gguf file may hold beside its tensors


def open_store_base(
    store: Store, base: str | None = None, trust_remote_code: bool = False, opened: dict[str, Base] | None = None
) -> Base:
    """The base of a store, its weights checked against the store's digest.

    It is looked for where the store says (relative to the current directory), beside the store, at the absolute path
    that the store recorded, under SUBMODEL_HOME, and on the hub if it may have come from there.

    Args:
        store: the store.
        base: where its base is; nothing else is tried then.
        trust_remote_code: let code that is shipped with the base run.
        opened: bases that are open already, by reference; one that is opened here is put there too.

    Raises:
        SubmodelError: the base is nowhere, or what `base` names is another model.
    """
    opened = {} if opened is None else opened
    if base is not None:
        if base not in opened:
            opened[base] = open_base(base, trust_remote_code)
        if opened[base].sha256 != store.base["sha256"]:
            raise _another(base, store, opened[base].sha256)
        return opened[base]
    result = _find(store, trust_remote_code, opened)
    opened[result.reference] = result
    return result


def rebase(path: Path, reference: str) -> dict[str, Any]:
    """Record a new place of a store's base in its store.json.

    Args:
        path: the store.
        reference: a Hugging Face directory, a hub id or a .gguf file.

    Returns:
        The base as store.json has it now.

    Raises:
        SubmodelError: no store, no checkpoint, one with other weights, or the store cannot be written to.
    """
    store = Store(path)
    weights = open_weights(reference, checkpoint_path(reference))
    if (digest := _digest_if_of_size(weights, store)) != store.base["sha256"]:
        raise _another(reference, store, digest)
    with store.lock():
        file = path / "store.json"
        document = json.loads(file.read_text())
        unchanged = {key: value for key, value in document["base"].items() if key not in ("reference", "absolute")}
        document["base"] = {**base_fields(reference), **unchanged}
        write_json(file, document)
    return document["base"]


def _find(store: Store, trust_remote_code: bool, opened: dict[str, Base]) -> Base:
    """The base wherever it is. Raises SubmodelError naming every place that was looked at."""
    reference, candidates = str(store.base["reference"]), list(_candidates(store))
    for name in (reference, *candidates):
        if name in opened and _digest_if_of_size(opened[name], store) == store.base["sha256"]:
            return opened[name]

    # the weights are compared before anything else of a candidate is read, its code above all
    rejected: list[str] = []
    for name in candidates:
        path = Path(name).expanduser()
        try:
            weights = open_weights(name, path)
            digest = _digest_if_of_size(weights, store)
        except SubmodelError as error:
            rejected.append(str(error))
            continue
        if digest == store.base["sha256"]:
            return base_at(name, path, weights, trust_remote_code)
        rejected.append(f"{name} has other weights{f' ({digest[:12]})' if digest else ''}")

    if is_hub_id(reference) and "absolute" not in store.base:
        try:
            base = open_base(reference, trust_remote_code)
        except SubmodelError as error:
            rejected.append(str(error))
        else:
            if base.sha256 == store.base["sha256"]:
                return base
            rejected.append(f"{reference} on the hub has other weights ({base.sha256[:12]})")

    places = [f"as {reference}", "beside the store"]
    places += [f"at {store.base['absolute']}"] if "absolute" in store.base else []
    places.append(f"under {HOME}={os.environ[HOME]}" if os.environ.get(HOME) else f"not under {HOME}, which is not set")
    reasons = f" ({'; '.join(dict.fromkeys(rejected))})" if rejected else ""
    raise SubmodelError(
        f"{store.path}: its base (weights {store.base['sha256'][:12]}) was looked for {', '.join(places)}, and is not "
        f"there{reasons}: give it with --base, or record its place: submodel rebase {store.path} BASE"
    )


def _candidates(store: Store) -> Iterator[str]:
    """Every place that exists where the base may be, the likeliest first, each once."""
    reference, folder = str(store.base["reference"]), store.path.absolute()
    beside = [parent / part for part in (reference, Path(reference).name) for parent in (folder, folder.parent)]
    recorded = [store.base["absolute"]] if "absolute" in store.base else []
    seen: set[Path] = set()
    for name in (reference, *map(str, beside), *recorded, *_in_home(store.base["size_bytes"])):
        path = Path(name).expanduser()
        if path.exists() and path.resolve() not in seen:
            seen.add(path.resolve())
            yield name


def _in_home(size_bytes: int) -> Iterator[str]:
    """The checkpoints under SUBMODEL_HOME, up to two levels deep, whose files may hold so many bytes of weights."""
    if not os.environ.get(HOME):
        return
    home = Path(os.environ[HOME]).expanduser()
    for pattern in ("*.gguf", "*/*.gguf"):
        for file in sorted(home.glob(pattern)):
            if size_bytes <= sum(part.stat().st_size for part in files_of(file)) <= size_bytes + _HEADER_BYTES:
                yield str(file)
    for pattern in ("*/config.json", "*/*/config.json"):
        for file in sorted(home.glob(pattern)):
            if sum(shard.stat().st_size for shard in file.parent.glob("*.safetensors")) >= size_bytes:
                yield str(file.parent)


def _digest_if_of_size(weights: Source | Base, store: Store) -> str | None:
    """The digest of weights; None, unread, for those that have another size than the base's."""
    source = weights.source if isinstance(weights, Base) else weights
    return source.sha256() if source.size_bytes == store.base["size_bytes"] else None


def _another(reference: str, store: Store, digest: str | None) -> SubmodelError:
    weights = f"weights {digest[:12]}" if digest else "weights of another size"
    return SubmodelError(
        f"{reference}: not the base of {store.path} ({weights}, expected {store.base['sha256'][:12]}): give the right "
        "one with --base"
    )
