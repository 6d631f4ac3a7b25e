"""Check a store: every checksum, the base's identity, the exact sparsity of every row."""

from pathlib import Path

import numpy as np

from submodel.base.models import Base
from submodel.base.tokenizer_model import tokenizer_model
from submodel.calibration import rebuild
from submodel.errors import SubmodelError
from submodel.prune.mask import Mask, popcount, row_popcounts
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, parse_sparsity
from submodel.prune.vocabulary import KINDS, Vocabulary
from submodel.prune.vocabulary.needed import head_rows
from submodel.store.base import open_store_base
from submodel.store.format import Store, split_reference


def verify(path: Path, base: str | None = None, trust_remote_code: bool = False) -> list[tuple[str, str]]:
    """Check everything that can be checked.

    Args:
        path: the store.
        base: where its base is now, if it has moved.
        trust_remote_code: open a base that ships code.

    Returns:
        (what was checked, what was found), a line each.

    Raises:
        SubmodelError: the first thing that does not hold.
    """
    store = Store(path)
    opened = open_store_base(store, base, trust_remote_code)
    lines = [("base", f"{opened.reference}: weights {store.base['sha256'][:12]} as recorded")]
    for name in store.names:
        manifest = store.manifest(name)
        masks = store.masks(name)
        structured = manifest["pattern"] != "unstructured"
        recipe_sparsity = parse_sparsity(manifest["sparsity"], manifest["pattern"] if structured else None)
        matrix_sparsity = manifest.get("matrix_sparsity")  # absent where every matrix has that of the recipe
        rows = 0
        for matrix, mask in masks.items():
            sparsity = recipe_sparsity if matrix_sparsity is None else RowSparsity(matrix_sparsity[matrix])
            _check_values(f"{path}@{name}", matrix, mask)
            if manifest["group"] == "matrix":
                _check_matrix(f"{path}@{name}", matrix, mask, sparsity)
            else:
                rows += _check_rows(f"{path}@{name}", matrix, mask, sparsity)
        rewritten = ", own weights whole" if "weights" in manifest else ""
        exact = f"{rows:,} rows of exact sparsity" if rows else "of exact sparsity each"
        lines.append((name, f"{len(masks)} masks whole, {exact}, {manifest['pattern']}{rewritten}"))
        if (vocabulary := store.vocabulary(name)) is not None:
            lines.append((f"{name}, vocabulary", _check_vocabulary(f"{path}@{name}", vocabulary, opened)))
    return lines


def verify_calibration(
    reference: str, base: str | None = None, data_dir: Path | None = None, trust_remote_code: bool = False
) -> list[tuple[str, str]]:
    """Make the calibration text of sub-models again and compare it to the token.

    Args:
        reference: STORE@NAME, or STORE for all that have any.
        base: where the store's base is now, if it has moved.
        data_dir: where named sets lie now; where they lay then if None.
        trust_remote_code: open a base that ships code.

    Returns:
        (sub-model, what was found), a line each.

    Raises:
        SubmodelError: the first text that cannot be had, or is another.
    """
    parts = split_reference(reference)
    store = Store(parts[0] if parts else Path(reference))
    tokenizer = open_store_base(store, base, trust_remote_code).tokenizer
    lines: list[tuple[str, str]] = []
    for name in [parts[1]] if parts else store.names:
        calibration = store.manifest(name)["calibration"]
        if not calibration:
            lines.append((name, "calibrated on no text"))
            continue
        provenance = rebuild(calibration, tokenizer, data_dir).provenance
        assert provenance is not None
        lines.append(
            (
                name,
                f"{provenance.tokens:,} tokens of {provenance.documents:,} documents made again, "
                f"digest {provenance.sha256_tokens[:12]} as recorded",
            )
        )
    return lines


def _check_vocabulary(model: str, vocabulary: Vocabulary, base: Base) -> str:
    """Check that a vocabulary is of this base, keeps what every text needs, and can be cut; what there is."""
    rules = tokenizer_model(base.tokenizer, base.reference)
    rows = head_rows(base)
    if vocabulary.rows != rows:
        raise SubmodelError(f"{model}: its vocabulary is of {vocabulary.rows:,} rows, the base's head has {rows:,}")
    for kind in KINDS:
        kept = set(vocabulary.ids(kind).tolist())
        lacking = {token for token in rules.atoms if token < rows} - kept
        lacking |= {token for token in rules.with_parts(kept) if token < rows} - kept if kind == "cut" else set()
        if lacking:
            raise SubmodelError(
                f"{model}: its vocabulary ({kind}) lacks token {min(lacking)}, which others are made of"
            )
    return ", ".join(f"{kind} of {vocabulary.count(kind):,} of {rows:,} rows, whole" for kind in KINDS)


def _check_values(model: str, matrix: str, mask: Mask) -> None:
    if mask.values is not None:
        values = mask.values()
        if values.numel() != popcount(mask.packed) or not values.isfinite().all():
            raise SubmodelError(f"{model}: {matrix}: its own weights are not one finite number for every kept weight")


def _check_matrix(model: str, matrix: str, mask: Mask, sparsity: Sparsity) -> None:
    """Check how many weights a matrix keeps, where its rows may keep different numbers."""
    kept, expected = popcount(mask.packed), mask.weights - round(mask.weights * sparsity.fraction)
    if kept != expected:
        raise SubmodelError(f"{model}: {matrix}: keeps {kept:,} of {mask.weights:,} weights, not {expected:,}")


def _check_rows(model: str, matrix: str, mask: Mask, sparsity: Sparsity) -> int:
    """Check how many weights every row keeps, and every group of N:M; returns the number of rows."""
    kept = row_popcounts(mask.packed)
    expected = mask.cols - sparsity.removed(mask.cols)
    wrong = np.argwhere(kept != expected)
    if len(wrong):
        row = tuple(int(i) for i in wrong[0])
        raise SubmodelError(f"{model}: {matrix}, row {row}: keeps {kept[row]} of {mask.cols} weights, not {expected}")
    if isinstance(sparsity, NM):
        grouped = mask.cols // sparsity.m * sparsity.m
        groups = mask.unpack()[..., :grouped].reshape(-1, sparsity.m)
        if (groups.sum(axis=1) != sparsity.n).any():
            raise SubmodelError(f"{model}: {matrix}: not {sparsity} in every group")
    return int(kept.size)
