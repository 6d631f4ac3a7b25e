"""What several verbs say of a sub-model, in words."""

import math
from pathlib import Path
from typing import Any


def overlapping(manifest: dict[str, Any]) -> list[str]:
    """What a manifest says of text that is evaluated on; nothing where none was found."""
    found = manifest.get("contamination")
    if not found:
        return []
    return [
        f"calibration text shares {found['words']} words in a row with {of['overlapping']} of {of['problems']} "
        f"problems of {name}"
        for name, of in found["sets"].items()
        if of["overlapping"]
    ]


def size(store: str, name: str) -> str:
    """Method, sparsity, and what it takes on disk."""
    from submodel.store import Store

    opened = Store(Path(store))
    manifest = opened.manifest(name)
    weights = sum(math.prod(entry["shape"]) for entry in manifest["matrices"].values())
    taken = opened.size_bytes(name)
    against = manifest["masks"]["reference"]
    own = ", own weights" if "weights" in manifest else ""
    own += f" on the grid of {manifest['grid']}" if "grid" in manifest else ""
    sparsity = f"{manifest['sparsity']:g}" + (f" by {manifest['allocation']}" if "allocation" in manifest else "")
    return (
        f"{manifest['method']}, sparsity {sparsity}, {manifest['pattern']}, {taken / 1e6:.1f} MB on disk, "
        f"{8 * taken / weights:.3f} bits a weight{f' against {against}' if against else ''}{own}"
    )


def settled(settling: dict[str, Any]) -> str:
    """The curve of `--tokens auto`."""
    curve = zip(settling["tokens"], settling["distances"], strict=True)
    steps = ", ".join(f"{distance:.4f} at {tokens:,}" for tokens, distance in curve)
    return f"{steps} tokens (distance to the masks of unlimited text, estimated; tolerance {settling['tolerance']:g})"
