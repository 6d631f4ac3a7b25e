"""submodel info"""

import argparse
from typing import TYPE_CHECKING

from submodel.cli.console import show
from submodel.cli.describe import held_out, memory, overlapping, settled, share_removed, size, vocabulary

if TYPE_CHECKING:
    from submodel.api.information import Info


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `info`."""
    p.add_argument("model", metavar="STORE@NAME")


def run(args: argparse.Namespace) -> None:
    """Print what is known of a sub-model."""
    from submodel.api.information import info
    from submodel.store import Store

    about = info(args.model)
    manifest = about.manifest
    base = Store(about.store).base
    lines = [size(about), f"base: {base['reference']}, weights {base['sha256'][:16]}"]
    lines += [part for part in (memory(about), share_removed(about), held_out(about)) if part]
    lines += vocabulary(manifest)
    lines += _calibration(about)
    lines += _learned(about)
    removed = [entry["sparsity"] for entry in manifest["matrices"].values()]
    lines.append(f"{len(removed)} matrices, achieved sparsity {min(removed):.4f} to {max(removed):.4f}")
    lines.append(f"masks {manifest['masks']['sha256'][:16]}, made {manifest['created'][:19]} in {manifest['dtype']}")
    lines += [f"no calibration token reached {expert}" for expert in manifest["unseen_experts"]]
    derived = {"size_bytes": about.size_bytes, "memory_bytes": about.memory_bytes, "removed": about.removed}
    show(args, {**manifest, **derived}, lines)


def _calibration(about: "Info") -> list[str]:
    """The text that the sub-model was calibrated on; no line if there was none."""
    from submodel.store.calibration import left_out, stand_ins

    manifest = about.manifest
    calibration = manifest["calibration"]
    if not calibration:
        return []
    lines = [
        f"calibration: {calibration['path']}{':' + calibration['column'] if calibration['column'] else ''}, "
        f"{calibration['samples']} x {calibration['seq_len']} = {calibration['tokens']:,} tokens of "
        f"{calibration['documents']} documents ({calibration['split']}), seed {calibration['seed']}, "
        f"token digest {calibration['sha256_tokens'][:16]}"
    ]
    lines += [
        f"part {part['name']}: {part['tokens']:,} tokens of {part['documents']} documents of {part['path']}"
        for part in calibration.get("parts", ())
    ]
    lines += left_out(calibration)
    lines += [f"stand-in: {line}" for line in stand_ins(calibration)]
    lines += overlapping(manifest)
    if "settling" in manifest:
        lines.append(f"settling: {settled(manifest['settling'])}")
    return lines


def _learned(about: "Info") -> list[str]:
    """What the method recorded beside the masks."""
    manifest = about.manifest
    lines: list[str] = []
    if "openings" in manifest:
        lines.append(f"openings: {manifest['openings']:,} one-token samples beside the text")
    if "auto" in manifest:
        lines.append(f"auto: {manifest['auto']['why']}")
    if "distil" in manifest:
        losses, rate = manifest["distil"]["losses"], manifest.get("rate")
        lines.append(
            f"distilled: KL from the dense model {losses[0]:.3f} nats a token before the first of {len(losses)} steps, "
            f"{losses[-1]:.3f} before the last{f', rate {rate:g}' if rate else ''}"
        )
    return lines
