"""submodel study"""

import argparse
from typing import Any

from submodel.cli.console import say, show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `study`."""
    p.add_argument("file", metavar="FILE.toml", help="the study (docs/guide/studies.md)")
    p.add_argument("--out", metavar="DIR", help="its stores, rows, records and logs (default: FILE without .toml)")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put a value into the file's place, such as data=DIR or models.smol=DIR",
    )
    p.add_argument("--dry-run", action="store_true", help="print the cells, what is done and what the rest will take")
    p.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="cells with this in their name or fitting a glob, and what they need; again for more",
    )
    p.add_argument("--limit", type=int, help="run so many cells at most")
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the models")
    p.add_argument("--unsafe-code", action="store_true", help="run model-written code even where nothing isolates it")


def run(args: argparse.Namespace) -> int:
    """Run the cells, or print the plan; exit status 2 where a cell failed."""
    from submodel.api.studying import run_study
    from submodel.report import aligned
    from submodel.study.cost import duration

    result = run_study(
        args.file,
        args.out,
        settings=args.set,
        only=args.only,
        limit=args.limit,
        dry_run=args.dry_run,
        trust_remote_code=args.trust_remote_code,
        unsafe_code=args.unsafe_code,
        say=say,
    )
    document: dict[str, Any] = {"cells": [cell.as_dict() for cell in result.cells]}
    if args.dry_run:
        lines = [["cell", "state", "estimate"]]
        lines += [[r.cell.name, r.state, "" if r.state == "done" else duration(r.estimate)] for r in result.cells]
        show(args, document, [aligned(lines), result.summary])
        return 0
    document["rows"] = [row.__dict__ for row in result.rows]
    show(args, document, [result.table, "", result.summary])
    failed = [cell for cell in result.cells if cell.state == "failed"]
    for cell in failed:
        say(f"failed: {cell.cell.name}: {cell.reason}; its log: {cell.log}")
    return 2 if failed else 0
