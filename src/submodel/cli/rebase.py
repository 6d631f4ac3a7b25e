"""The verb rebase: record where a store's base is now."""

import argparse
from pathlib import Path

from submodel.cli import arguments
from submodel.cli.console import show


def add(verbs: arguments.Verbs) -> None:
    """The verb of this module."""
    p = verbs.add("rebase", _rebase, "record where the base of a store is now")
    p.add_argument("store", metavar="STORE")
    p.add_argument("base", metavar="BASE", help="Hugging Face directory, hub id or .gguf file with the same weights")


def _rebase(args: argparse.Namespace) -> None:
    from submodel.store.base import rebase

    base = rebase(Path(args.store), args.base)
    show(args, {"store": args.store, "base": base}, [f"{args.store}: its base is {base['reference']}"])
