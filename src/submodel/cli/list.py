"""submodel list"""

import argparse

from submodel.cli.console import show
from submodel.cli.describe import summary


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `list`."""
    p.add_argument("store", metavar="STORE", help="a store, or STORE@NAME for one of its sub-models")


def run(args: argparse.Namespace) -> None:
    """Print a line a sub-model."""
    from pathlib import Path

    from submodel.api.information import info, list_submodels
    from submodel.store import Store, split_reference

    store, name = split_reference(args.store) or (Path(args.store), None)
    base = Store(store).base
    submodels = list_submodels(args.store) if name is None else [info(args.store)]
    lines = [f"base {base['reference']}, {base['size_bytes'] / 1e6:.1f} MB"]
    lines += [f"{one.name}: {summary(one)}" for one in submodels]
    document = {
        "base": base,
        "submodels": {one.name: one.size_bytes for one in submodels},
        "memory_bytes": {one.name: one.memory_bytes for one in submodels},
        "removed": {one.name: one.removed for one in submodels},
        "check": {one.name: one.manifest.get("check") for one in submodels},
    }
    show(args, document, lines)
