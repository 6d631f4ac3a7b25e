"""submodel export"""

import argparse

from submodel.cli import options
from submodel.cli.console import show

_FORMATS = ("hf", *(f"packed-{name}" for name in options.SURVIVORS))


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    p.add_argument("model", metavar="STORE@NAME")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--format", default="hf", help=f"{options.either(_FORMATS)} (default: hf)")
    p.add_argument(
        "--vocab",
        default="all",
        help="all (default), or cut: tokenizer, embedding and head with those tokens alone that --vocab domain chose",
    )
    options.add_opening(p)


def run(args: argparse.Namespace) -> None:
    """Write the directory, and say so."""
    from submodel.api.stores import export

    opening = {"base": args.base, "trust_remote_code": args.trust_remote_code}
    export(args.model, args.out, args.format, vocab=args.vocab, **opening)
    cut = ", cut to its tokens" if args.vocab == "cut" else ""
    show(args, {"out": args.out}, [f"{args.out}: {args.model} as {args.format}{cut}"])
