"""Verbs on what is in a store: list, info, verify, export, compare, copy, remove."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.cli import arguments
from submodel.cli.about import overlapping, settled, size
from submodel.cli.console import show
from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.store import Store


def add(verbs: arguments.Verbs) -> None:
    """The verbs of this module."""
    p = verbs.add("list", _list, "say what is in a store")
    p.add_argument("store", metavar="STORE")

    p = verbs.add("info", _info, "print a sub-model's sizes and recipe")
    p.add_argument("model", metavar="STORE@NAME")

    p = verbs.add("verify", _verify, "check every checksum, the base's identity and the exact sparsity of every row")
    p.add_argument("store", metavar="STORE", help="a store; with --calibration also STORE@NAME")
    p.add_argument(
        "--calibration",
        action="store_true",
        help="instead, make the calibration text again and check its tokens",
    )
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie now (default: where they lay)")
    arguments.opens_model(p)

    p = verbs.add("export", _export, "write a sub-model as a plain Hugging Face directory, or packed")
    p.add_argument("model", metavar="STORE@NAME")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--format", default="hf", help="hf (default), packed-bf16, packed-int8 or packed-int4")
    arguments.opens_model(p)

    p = verbs.add("compare", _compare, "print the Jaccard distances between sub-models")
    p.add_argument("model", nargs="+", metavar="STORE@NAME")

    p = verbs.add("copy", _copy, "copy sub-models to another store, which then stands by itself")
    p.add_argument("model", nargs="+", metavar="STORE@NAME")
    p.add_argument("--out", required=True, metavar="STORE", help="the other store; made if it is not there")
    p.add_argument("--name", action="append", default=[], help="what one is called there (default: as before)")

    p = verbs.add("remove", _remove, "take a sub-model out of its store")
    p.add_argument("model", metavar="STORE@NAME")


def _list(args: argparse.Namespace) -> None:
    from submodel.store import Store

    store = Store(Path(args.store))
    lines = [f"base {store.base['reference']}, {store.base['size_bytes'] / 1e6:.1f} MB"]
    lines += [f"{name}: {size(args.store, name)}" for name in store.names]
    sizes = {name: store.size_bytes(name) for name in store.names}
    show(args, {"base": store.base, "submodels": sizes}, lines)


def _info(args: argparse.Namespace) -> None:
    from submodel.calibration import stand_ins

    store, name = _one(args.model)
    manifest = store.manifest(name)
    calibration = manifest["calibration"]
    lines = [size(str(store.path), name), f"base: {store.base['reference']}, weights {store.base['sha256'][:16]}"]
    if calibration:
        lines.append(
            f"calibration: {calibration['path']}{':' + calibration['column'] if calibration['column'] else ''}, "
            f"{calibration['samples']} x {calibration['seq_len']} = {calibration['tokens']:,} tokens of "
            f"{calibration['documents']} documents ({calibration['split']}), seed {calibration['seed']}, "
            f"token digest {calibration['sha256_tokens'][:16]}"
        )
        lines += [
            f"part {part['name']}: {part['tokens']:,} tokens of {part['documents']} documents of {part['path']}"
            for part in calibration.get("parts", ())
        ]
        lines += [f"stand-in: {line}" for line in stand_ins(calibration)]
        lines += overlapping(manifest)
        if "settling" in manifest:
            lines.append(f"settling: {settled(manifest['settling'])}")
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
    removed = [entry["sparsity"] for entry in manifest["matrices"].values()]
    lines.append(f"{len(removed)} matrices, achieved sparsity {min(removed):.4f} to {max(removed):.4f}")
    lines.append(f"masks {manifest['masks']['sha256'][:16]}, made {manifest['created'][:19]} in {manifest['dtype']}")
    lines += [f"no calibration token reached {expert}" for expert in manifest["unseen_experts"]]
    show(args, {**manifest, "size_bytes": store.size_bytes(name)}, lines)


def _verify(args: argparse.Namespace) -> None:
    from submodel.store.verify import verify, verify_calibration

    if args.calibration:
        data_dir = arguments.directory(args.data_dir)
        found = verify_calibration(args.store, args.base, data_dir, args.trust_remote_code)
    else:
        found = verify(Path(args.store), args.base, args.trust_remote_code)
    show(args, {"checked": dict(found)}, [f"{what}: {result}" for what, result in found])


def _export(args: argparse.Namespace) -> None:
    from submodel.export import export_directory
    from submodel.store.base import open_store_base

    store, name = _one(args.model)
    base = open_store_base(store, args.base, args.trust_remote_code)
    export_directory(base, store.masks(name), Path(args.out), args.format, store.manifest(name))
    show(args, {"out": args.out}, [f"{args.out}: {args.model} as {args.format}"])


def _compare(args: argparse.Namespace) -> None:
    from submodel.report import aligned
    from submodel.store.compare import compare_masks

    if len(args.model) < 2:
        raise SubmodelError("compare needs two sub-models or more: give STORE@A STORE@B")
    loaded = {}
    bases: dict[str, str] = {}
    for reference in args.model:
        if reference in loaded:
            raise SubmodelError(f"{reference}: given twice: give sub-models that differ")
        store, name = _one(reference)
        loaded[reference] = store.masks(name)
        bases.setdefault(store.base["sha256"], f"{reference} of {store.base['reference']}")
    if len(bases) > 1:
        raise SubmodelError(f"{' and '.join(bases.values())}: compare sub-models of one base")
    pairs: dict[str, Any] = {}
    lines = ["Jaccard distance of the kept weights (1 - both / either), and fraction of positions that differ"]
    first, *others = loaded
    for index, a in enumerate([first, *others]):
        for b in others[index:]:
            found = compare_masks(loaded[a], loaded[b])
            groups = {
                "block": {str(k): v.jaccard_distance for k, v in found.blocks.items()},
                "type": {k: v.jaccard_distance for k, v in found.types.items()},
                "matrix": {k: v.jaccard_distance for k, v in found.matrices.items()},
            }
            whole = found.whole
            pairs[f"{a} {b}"] = {"whole": whole.jaccard_distance, "differing": whole.differing, **groups}
            lines.append(f"\n{a}  {b}: {whole.jaccard_distance:.4f}, {whole.differing:.4f} differ")
            kinds = [["matrix type", "distance"], *([k, f"{v:.4f}"] for k, v in groups["type"].items())]
            blocks = [["block", "distance"], *([k, f"{v:.4f}"] for k, v in groups["block"].items())]
            lines += [aligned(kinds), aligned(blocks)]
    show(args, {"set": "kept weights", "pairs": pairs}, lines)


def _copy(args: argparse.Namespace) -> None:
    from submodel.store.copy import copy

    models = [_one(reference) for reference in args.model]
    already = copy(models, Path(args.out), args.name)
    names = args.name or [name for _, name in models]
    lines = [f"{args.out}@{n}: {'there already' if n in already else size(args.out, n)}" for n in names]
    show(args, {"out": args.out, "names": names, "already": already}, lines)


def _remove(args: argparse.Namespace) -> None:
    from submodel.store.copy import remove

    store, name = _one(args.model)
    remove(store, name)
    show(args, {"store": str(store.path), "removed": name, "left": store.names}, [f"{args.model}: removed"])


def _one(reference: str) -> "tuple[Store, str]":
    """The store and the name that STORE@NAME says. Raises SubmodelError for anything else."""
    from submodel.store import Store, split_reference

    parts = split_reference(reference)
    if parts is None:
        raise SubmodelError(f"{reference}: give STORE@NAME")
    return Store(parts[0]), parts[1]
