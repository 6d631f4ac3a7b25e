"""A store: one base model and many sub-models of it on disk, each a set of masks with its recipe.

Everything is written to a temporary name and renamed; a manifest is the last file of its sub-model; nothing is ever
unpickled. The masks of the second and later sub-models are coded by their differences from the first one's. A method
that rewrites the surviving weights has their new values kept beside the masks.

docs/reference/format.md specifies the layout.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.base.files import write_json
from submodel.errors import SubmodelError, unknown_name
from submodel.prune.mask import Masks
from submodel.store.digests import digest_of_all, digest_of_values, digest_of_vocabulary

if TYPE_CHECKING:
    from submodel.prune.vocabulary import Vocabulary
    from submodel.store.masks import StoredMasks

FORMAT = 1
FORMAT_REWRITTEN = 2  # of a manifest: the sub-model has weights of its own, which a reader of format 1 would miss
FORMAT_VOCABULARY = 3  # likewise: it keeps a part of the base's tokens; weights of its own it may have as well
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def digest_of_submodel(manifest: Mapping[str, Any]) -> str:
    """What tells a sub-model from others of its base: the digest of its masks, and of own weights and of its vocabulary
    if it has any."""
    parts = [manifest[part]["sha256"] for part in ("masks", "weights", "vocabulary") if part in manifest]
    return "+".join(parts)


OWN_KEYS = ("format", "name", "masks", "weights", "matrices")
"""What `Store.add` itself writes into a manifest; the rest is the recipe."""


class Store:
    """An opened store.

    Attributes:
        path: its directory.
        base: the base's reference, its absolute path if recorded, weight digest and size, as in store.json.
    """

    def __init__(self, path: Path):
        self.path = path
        document = _read_json(path / "store.json", f"{path}: not a store (no readable store.json)")
        if document.get("kind") != "submodel store":
            raise SubmodelError(f"{path}: not a store: its store.json is of another program")
        if document.get("format") != FORMAT:
            raise SubmodelError(
                f"{path}: its format is {document.get('format')}, this version reads {FORMAT}: upgrade submodel"
            )
        self.base: dict[str, Any] = document["base"]

    def __repr__(self) -> str:
        return f"<store {self.path}: {len(self._folders())} sub-models of {self.base['reference']}>"

    @property
    def names(self) -> list[str]:
        """The names of the sub-models, the oldest first."""
        return sorted(self._folders(), key=lambda name: (self.manifest(name)["created"], name))

    def _folders(self) -> list[str]:
        return [file.parent.name for file in self.path.glob("submodels/[!.]*/manifest.json")]

    def manifest(self, name: str) -> dict[str, Any]:
        """A sub-model's recipe. Raises SubmodelError when there is none of this name or it is damaged."""
        file = self.path / "submodels" / name / "manifest.json"
        if not file.is_file():
            raise unknown_name(
                f"sub-model of {self.path}", name, (f.parent.name for f in file.parent.parent.glob("*/manifest.json"))
            )
        manifest = _read_json(file, f"{file}: damaged")
        rewritten = "weights" in manifest
        if manifest.get("format") != _format_of(rewritten, "vocabulary" in manifest):
            raise SubmodelError(
                f"{file}: its format is {manifest.get('format')}, this version reads {FORMAT} and, of sub-models with "
                f"weights of their own, {FORMAT_REWRITTEN}, with a vocabulary {FORMAT_VOCABULARY}: upgrade submodel"
            )
        try:
            is_unaltered = digest_of_all(manifest["matrices"]) == manifest["masks"]["sha256"]
            is_unaltered &= not rewritten or digest_of_values(manifest["matrices"]) == manifest["weights"]["sha256"]
            if entry := manifest.get("vocabulary"):
                is_unaltered &= digest_of_vocabulary(entry["rows"], entry) == entry["sha256"]
        except (KeyError, TypeError, AttributeError):
            is_unaltered = False
        if not is_unaltered:
            raise SubmodelError(f"{file}: altered: its entries do not fit its digest: extract {name} again")
        return manifest

    def masks(self, name: str) -> "StoredMasks":
        """A sub-model's masks. Raises SubmodelError when they are damaged or not those of the manifest."""
        from submodel.store.masks import StoredMasks  # torch, which reading a manifest does not need

        manifest = self.manifest(name)
        reference = manifest["masks"]["reference"]
        folder = self.path / "submodels" / name
        return StoredMasks(folder, manifest, self.masks(reference) if reference is not None else {})

    def vocabulary(self, name: str) -> "Vocabulary | None":
        """The tokens that a sub-model keeps; None where it keeps all. Raises SubmodelError when they are damaged."""
        from submodel.store.vocabulary import stored_vocabulary

        return stored_vocabulary(self.path / "submodels" / name, self.manifest(name))

    def routing_file(self, name: str | None = None) -> Path:
        """Where the router keeps what it knows of a sub-model's text, or of text that is for the base (None)."""
        return (self.path / "submodels" / name if name else self.path) / "routing.safetensors"

    def size_bytes(self, name: str) -> int:
        """What a sub-model's masks, and its own weights and vocabulary if it has any, take on disk."""
        parts = ("masks", "weights", "vocabulary")
        files = [self.path / "submodels" / name / f"{part}.safetensors" for part in parts]
        return sum(file.stat().st_size for file in files if file.is_file())

    def add(
        self, name: str, model: Masks, recipe: dict[str, Any], vocabulary: "Vocabulary | None" = None
    ) -> dict[str, Any]:
        """Write a sub-model.

        Args:
            name: its name in the store.
            model: its masks, all of them or none with values.
            recipe: goes into the manifest beside what this function knows itself; `vocabulary` is what it says of it.
            vocabulary: the tokens that it keeps; all if None.

        Returns:
            The manifest.

        Raises:
            SubmodelError: the name is not allowed or taken.
        """
        from submodel.store.masks import write_masks
        from submodel.store.vocabulary import FILE, described, write_vocabulary

        check_name(name)
        folder = self.path / "submodels" / name
        if (folder / "manifest.json").exists():
            raise SubmodelError(f"{self.path}@{name}: already there: give another --name, or submodel remove it")
        shutil.rmtree(folder, ignore_errors=True)  # what a killed writer left has no manifest
        partial = folder.parent / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            reference, against = self._reference(model)
            entries = write_masks(partial, model, against)
            rewritten = any("values" in entry for entry in entries.values())
            if not any(entry["encoding"] == "gaps-from-reference" for entry in entries.values()):
                reference = None
            if vocabulary is not None:
                write_vocabulary(partial / FILE, vocabulary)
                recipe = {**recipe, "vocabulary": described(vocabulary, recipe.get("vocabulary", {}))}
            manifest = {
                "format": _format_of(rewritten, vocabulary is not None),
                "name": name,
                **recipe,
                "masks": {"sha256": digest_of_all(entries), "reference": reference},
                **({"weights": {"sha256": digest_of_values(entries)}} if rewritten else {}),
                "matrices": entries,
            }
            write_json(partial / "manifest.json", manifest)
            os.replace(partial, folder)
            return manifest
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _reference(self, model: Masks) -> tuple[str | None, Masks]:
        """The first sub-model, if it is coded by itself and has the same matrices."""
        for name in self.names:
            manifest = self.manifest(name)
            if manifest["masks"]["reference"] is None and manifest["matrices"].keys() == model.keys():
                return name, self.masks(name)
        return None, {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other writers out while one writes. Raises SubmodelError when another holds it."""
        with locked(self.path, "another process is writing to it: wait for it to end"):
            yield


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder's lock, which goes with the process.

    Raises SubmodelError saying `taken` when another has it, or that the folder cannot be written to.
    """
    try:
        file = open(folder / ".lock", "w")
    except OSError as error:
        raise SubmodelError(
            f"{folder}: cannot be written to ({error.strerror}): make it writable, or copy it"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SubmodelError(f"{folder}: {taken}") from error
        yield


def open_or_create(path: Path, base: dict[str, Any]) -> Store:
    """The store at `path`, made if there is none.

    Args:
        path: its directory.
        base: `reference`, `sha256` and `size_bytes` of the base model; where it lies now is recorded as well.

    Raises:
        SubmodelError: there is something else, or a store of another base.
    """
    check_base(path, base)
    if (path / "store.json").exists():
        return Store(path)
    path.mkdir(parents=True, exist_ok=True)
    write_json(
        path / "store.json",
        {"kind": "submodel store", "format": FORMAT, "base": {**base_fields(base["reference"]), **base}},
    )
    return Store(path)


def check_base(path: Path, base: dict[str, Any]) -> None:
    """Raises SubmodelError unless `path` is a store of this base (see `open_or_create`), or can become one."""
    if (path / "store.json").exists():
        store = Store(path)
        if store.base["sha256"] != base["sha256"]:
            raise SubmodelError(
                f"{path}: a store of another base ({store.base['reference']}, weights {store.base['sha256'][:12]}; "
                f"given {base['reference']}, weights {base['sha256'][:12]}): give another --out"
            )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SubmodelError(f"{path}: there is something else: give a new directory or a store for --out")


def base_fields(reference: str) -> dict[str, str]:
    """How store.json says where a base is: `reference` as given and, of one on this machine, its `absolute` path."""
    path = Path(reference).expanduser()
    return {"reference": reference, **({"absolute": os.path.abspath(path)} if path.exists() else {})}


def check_name(name: str) -> None:
    """Raises SubmodelError unless `name` can be a sub-model's: letters, digits and . _ + - after the first."""
    if not _NAME.fullmatch(name):
        raise SubmodelError(f"name {name!r}: letters and digits first, then also . _ + -")


def check_names(names: Sequence[str]) -> None:
    """Raises SubmodelError unless all can be names of sub-models, each of another."""
    for name in names:
        check_name(name)
    if len(set(names)) != len(names):
        raise SubmodelError(f"two sub-models of one name ({', '.join(names)}): give each a --name of its own")


def split_reference(reference: str) -> tuple[Path, str] | None:
    """`STORE@NAME` -> (store, name); None for anything else."""
    path, at, name = reference.rpartition("@")
    if at and _NAME.fullmatch(name) and not Path(reference).exists():
        return Path(path).expanduser(), name
    return None


def _format_of(rewritten: bool, vocabulary: bool) -> int:
    return FORMAT_VOCABULARY if vocabulary else FORMAT_REWRITTEN if rewritten else FORMAT


def _read_json(file: Path, refusal: str) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SubmodelError(f"{refusal} ({type(error).__name__}): give a directory made by submodel extract") from error
    if not isinstance(document, dict):
        raise SubmodelError(f"{refusal}: give a directory made by submodel extract")
    return document
