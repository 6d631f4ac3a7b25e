"""submodel study"""

import argparse
from pathlib import Path

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
    from submodel import study
    from submodel.report import aligned
    from submodel.study.cost import duration

    given = study.read_study(Path(args.file), args.set)
    out = Path(args.out or given.file.with_suffix("")).resolve()
    bases = study.open_bases(given, args.trust_remote_code)
    cells = study.plan(given, out, bases, trust_remote_code=args.trust_remote_code, unsafe_code=args.unsafe_code)
    chosen = study.select(cells, *args.only)
    records = study.Records(out)
    records.refuse_other_bases(bases)
    records.refuse_others(cells)
    if args.dry_run:
        results = study.standing(chosen, records, cells)
        lines = [["cell", "state", "estimate"]]
        lines += [[r.cell.name, r.state, "" if r.state == "done" else duration(r.estimate)] for r in results]
        show(args, {"cells": [r.as_dict() for r in results]}, [aligned(lines), study.summary(results)])
        return 0
    with records.lock():
        results = study.run(chosen, records, plan=cells, limit=args.limit, say=say)
    rows = [row.__dict__ for cell in cells for row in records.rows_of(cell)]
    shown = [study.study_table(given, cells, records), "", study.summary(results)]
    show(args, {"cells": [r.as_dict() for r in results], "rows": rows}, shown)
    failed = [r for r in results if r.state == "failed"]
    for result in failed:
        say(f"failed: {result.cell.name}: {result.reason}; its log: {records.log(result.cell)}")
    return 2 if failed else 0
