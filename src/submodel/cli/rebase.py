"""submodel rebase"""

import argparse
from pathlib import Path

from submodel.cli.console import show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `rebase`."""
    p.add_argument("store", metavar="STORE")
    p.add_argument("base", metavar="BASE", help="Hugging Face directory, hub id or .gguf file with the same weights")


def run(args: argparse.Namespace) -> None:
    """Record where the store's base is now, and say so."""
    from submodel.store.base import rebase

    base = rebase(Path(args.store), args.base)
    show(args, {"store": args.store, "base": base}, [f"{args.store}: its base is {base['reference']}"])
