"""submodel copy"""

import argparse

from submodel.cli.console import show
from submodel.cli.describe import size


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `copy`."""
    p.add_argument("model", nargs="+", metavar="STORE@NAME")
    p.add_argument("--out", required=True, metavar="STORE", help="the other store; made if it is not there")
    p.add_argument("--name", action="append", default=[], help="what one is called there (default: as before)")


def run(args: argparse.Namespace) -> None:
    """Copy, and print a line a copy."""
    from submodel.api.information import info
    from submodel.api.stores import copy

    copied = copy(args.model, args.out, args.name)
    there = {name: "there already" for name in copied.already}
    lines = [f"{args.out}@{name}: {there.get(name) or size(info(f'{args.out}@{name}'))}" for name in copied.names]
    show(args, {"out": args.out, "names": copied.names, "already": copied.already}, lines)
