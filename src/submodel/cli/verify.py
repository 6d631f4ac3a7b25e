"""submodel verify"""

import argparse

from submodel.cli import options
from submodel.cli.console import show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    p.add_argument("store", metavar="STORE", help="a store; with --calibration also STORE@NAME")
    p.add_argument(
        "--calibration",
        action="store_true",
        help="instead, make the calibration text again and check its tokens",
    )
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie now (default: where they lay)")
    options.add_opening(p)


def run(args: argparse.Namespace) -> None:
    """Print what was checked."""
    from submodel.api.stores import verify

    checked = verify(
        args.store,
        calibration=args.calibration,
        data_dir=options.directory(args.data_dir) if args.calibration else None,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
    )
    show(args, {"checked": dict(checked)}, [f"{what}: {result}" for what, result in checked])
