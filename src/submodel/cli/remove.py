"""submodel remove"""

import argparse

from submodel.cli.console import show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `remove`."""
    p.add_argument("model", metavar="STORE@NAME")


def run(args: argparse.Namespace) -> None:
    """Remove, and say so."""
    from submodel.api.stores import remove

    remaining = remove(args.model)
    store, _, name = args.model.rpartition("@")
    show(args, {"store": store, "removed": name, "left": remaining}, [f"{args.model}: removed"])
