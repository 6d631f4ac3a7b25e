"""What is done with sub-models in stores: verify, compare, copy, remove, export, rebase."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from submodel.api.information import open_submodel
from submodel.errors import SubmodelError, unknown_name
from submodel.export import export_directory
from submodel.store import verify as checks
from submodel.store.base import open_store_base
from submodel.store.base import rebase as rebase_store
from submodel.store.compare import Comparison, compare_masks, compare_vocabularies
from submodel.store.copy import copy as copy_submodels
from submodel.store.copy import remove as remove_submodel

VOCABULARIES = ("all", "cut")
"""What an export does with the base's tokens."""


def verify(
    store: str | Path,
    *,
    calibration: bool = False,
    data_dir: Path | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
) -> list[tuple[str, str]]:
    """Check every checksum of a store, the base's identity and the exact sparsity of every row.

    Args:
        store: the store; with `calibration` also `STORE@NAME`.
        calibration: instead, make the calibration text again and compare its tokens.
        data_dir: where named sets lie now; where they lay then if None.
        base: where the store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with the base run.

    Returns:
        (what was checked, what was found), a pair each.

    Raises:
        SubmodelError: the first thing that does not hold.
    """
    if calibration:
        return checks.verify_calibration(str(store), base, data_dir, trust_remote_code)
    return checks.verify(Path(store), base, trust_remote_code)


def compare(a: str, b: str) -> Comparison:
    """How far the masks of two sub-models lie apart: overall, by matrix, by block and by type of matrix.

    Args:
        a, b: `STORE@NAME`, of one base.

    Raises:
        SubmodelError: no such sub-model, the same one twice, or sub-models of two bases.
    """
    if a == b:
        raise SubmodelError(f"{a}: given twice: give sub-models that differ")
    (first, name), (second, other) = open_submodel(a), open_submodel(b)
    if first.base["sha256"] != second.base["sha256"]:
        bases = f"{a} of {first.base['reference']} and {b} of {second.base['reference']}"
        raise SubmodelError(f"{bases}: compare sub-models of one base")
    vocabularies = compare_vocabularies(first.vocabulary(name), second.vocabulary(other))
    return replace(compare_masks(first.masks(name), second.masks(other)), vocabulary=vocabularies)


@dataclass(frozen=True)
class Copied:
    """What `copy` did.

    Attributes:
        store: the store that was copied to.
        names: what the sub-models are called there.
        already: those of `names` that were there before, with the same masks, and were left as they are.
    """

    store: Path
    names: tuple[str, ...]
    already: tuple[str, ...]


def copy(models: str | Sequence[str], out: str | Path, names: Sequence[str] = ()) -> Copied:
    """Copy sub-models to another store, which then stands by itself.

    Args:
        models: `STORE@NAME`, one or several of one base.
        out: the other store, made if it is not there.
        names: what they are called there; as before if there are none.

    Raises:
        SubmodelError: sub-models of several bases, a name that is taken, a damaged store, a full disk.
    """
    opened = [open_submodel(model) for model in ([models] if isinstance(models, str) else models)]
    already = copy_submodels(opened, Path(out), names)
    return Copied(Path(out), tuple(names or [name for _, name in opened]), tuple(already))


def remove(model: str) -> list[str]:
    """Take a sub-model, `STORE@NAME`, out of its store.

    Returns:
        The names of the sub-models that remain.

    Raises:
        SubmodelError: there is none of this name, or others are stored by their differences from it.
    """
    store, name = open_submodel(model)
    remove_submodel(store, name)
    return store.names


def rebase(store: str | Path, base: str) -> str:
    """Record where the base of a store is now.

    Args:
        store: the store.
        base: a directory, hub id or .gguf file with the same weights.

    Returns:
        The base's reference as the store has it now.

    Raises:
        SubmodelError: no store, no such checkpoint, one with other weights, or the store cannot be written to.
    """
    return rebase_store(Path(store), base)["reference"]


def export(
    model: str,
    out: str | Path,
    format: str = "hf",
    *,
    vocab: str = "all",
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write a sub-model for other engines.

    Args:
        model: `STORE@NAME`.
        out: a directory that does not exist yet.
        format: "hf", a plain Hugging Face directory, or packed: "packed-bf16", "packed-int8" or "packed-int4".
        vocab: "all", the base's tokenizer as it is; "cut": tokenizer, embedding and head with the tokens alone that the
            domain needs (of a sub-model that was extracted with --vocab domain).
        base: where the store's base is now, if it has moved.
        trust_remote_code: let code that is shipped with the base run.

    Returns:
        The directory.

    Raises:
        SubmodelError: no such sub-model or format, `out` exists, a full disk.
    """
    store, name = open_submodel(model)
    if vocab not in VOCABULARIES:
        raise unknown_name("vocabulary", vocab, VOCABULARIES)
    vocabulary = store.vocabulary(name) if vocab == "cut" else None
    if vocab == "cut" and vocabulary is None:
        raise SubmodelError(f"{model}: it keeps all tokens: extract it with --vocab domain, or leave --vocab cut out")
    opened = open_store_base(store, base, trust_remote_code)
    export_directory(opened, store.masks(name), Path(out), format, store.manifest(name), vocabulary)
    return Path(out)
