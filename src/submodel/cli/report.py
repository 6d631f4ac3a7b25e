"""submodel report"""

import argparse

from submodel.cli.console import show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    p.add_argument("rows", metavar="ROWS.jsonl", nargs="+")
    p.add_argument("--markdown", action="store_true", help="print it as Markdown")
    compared = p.add_mutually_exclusive_group()
    compared.add_argument(
        "--against",
        metavar="NAME",
        help="show how the others differ from this sub-model, or from dense, piece by piece",
    )
    compared.add_argument(
        "--won-back",
        metavar="NAME",
        help="show how much of what this sub-model loses against dense each of the others wins back",
    )


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    from submodel.api.measuring import report, rows_of

    rows = rows_of(args.rows)
    text = report(rows, against=args.against, won_back=args.won_back, markdown=args.markdown)
    show(args, {"rows": [row.__dict__ for row in rows]}, [text])
