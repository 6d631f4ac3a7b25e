"""What several verbs say of a sub-model, in words."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from submodel.api.information import Info


NEGLIGIBLE = 0.01
"""Share of a set's problems that may be in calibration text: the 95% interval of a rate is wider, up to 10,000."""


def size(about: "Info") -> str:
    """Method, sparsity, and what it takes on disk."""
    manifest = about.manifest
    reference = manifest["masks"]["reference"]
    rewritten = ", own weights" if "weights" in manifest else ""
    rewritten += f" on the grid of {manifest['grid']}" if "grid" in manifest else ""
    sparsity = f"{about.sparsity:g}" + (f" by {manifest['allocation']}" if "allocation" in manifest else "")
    return (
        f"{about.method}, sparsity {sparsity}, {manifest['pattern']}, {about.size_bytes / 1e6:.1f} MB on disk, "
        f"{8 * about.size_bytes / about.weights:.3f} bits a weight{f' against {reference}' if reference else ''}"
        f"{rewritten}"
    )


def memory(about: "Info") -> str:
    """About what it takes in memory in each packed format; empty where that is not known."""
    sizes = ", ".join(f"{size_bytes / 1e6:,.0f} MB in {name}" for name, size_bytes in about.memory_bytes.items())
    return f"memory: {sizes}" if sizes else ""


def share_removed(about: "Info") -> str:
    """How much of all the base's parameters is gone; empty where that is not known."""
    return "" if about.removed is None else f"removed: {about.removed:.1%} of all {about.parameters:,} parameters"


def held_out(about: "Info") -> str:
    """What it lost on held-out text; empty where nothing was measured."""
    check = about.held_out
    if check is None:
        return ""
    return (
        f"held-out text: perplexity {check.perplexity:.3f}, of the base {check.base_perplexity:.3f} "
        f"({check.loss:+.3f} nats a token, {check.tokens:,} tokens)"
    )


def vocabulary(manifest: dict[str, Any]) -> list[str]:
    """The tokens that are kept, and what fewer or more of them lose; no line where all are kept."""
    entry: dict[str, Any] = manifest.get("vocabulary", {})
    lines: list[str] = []
    for kind, what in (("head", "its head keeps"), ("cut", "cut to size with its tokenizer it keeps")):
        if not entry:
            break
        kept, rows = entry[kind], entry["rows"]
        lost = f": {kept['loss']:+.2%} bits a byte (standard error {kept['error']:.2%})" if "loss" in kept else ""
        lines.append(f"vocabulary: {what} {kept['kept']:,} of {rows:,} rows{lost}")
        if points := entry.get("curve", {}).get(kind):
            lines.append("  " + ", ".join(f"{point['tokens']:,} {point['loss']:+.2%}" for point in points))
    return lines


def summary(about: "Info") -> str:
    """All of these in one line."""
    parts = (size(about), memory(about), share_removed(about), held_out(about))
    return "; ".join(part for part in parts if part)


def overlapping(manifest: dict[str, Any]) -> list[str]:
    """Which evaluation sets share text with the calibration; no line where none does."""
    contamination = manifest.get("contamination")
    if not contamination:
        return []
    return [
        f"calibration text shares {contamination['words']} words in a row with {counts['overlapping']} of "
        f"{counts['problems']} problems of {name}: {_verdict(name, counts['overlapping'] / counts['problems'])}"
        for name, counts in contamination["sets"].items()
        if counts["overlapping"]
    ]


def _verdict(name: str, share: float) -> str:
    """Whether it matters that a share of a set's problems was seen, and what to do."""
    if share <= NEGLIGIBLE:
        return f"{share:.1%} of a score at most, less than its interval: nothing to do"
    return f"{share:.0%}, so a score on {name} says little: measure another task, or calibrate on other text"


def settled(settling: dict[str, Any]) -> str:
    """The curve of `--tokens auto`."""
    curve = zip(settling["tokens"], settling["distances"], strict=True)
    steps = ", ".join(f"{distance:.4f} at {tokens:,}" for tokens, distance in curve)
    return f"{steps} tokens (distance to the masks of unlimited text, estimated; tolerance {settling['tolerance']:g})"
