"""Verbs that measure models: eval, report, study."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from submodel.cli import arguments
from submodel.cli.console import Bar, say, show
from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.tasks.rows import Row


def add(verbs: arguments.Verbs) -> None:
    """The verbs of this module."""
    p = verbs.add("eval", _eval, "measure models on tasks; cells that are already in the file are skipped")
    p.add_argument("model", nargs="+", metavar="MODEL")
    p.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="T",
        help="perplexity:PATH[:COLUMN] or perplexity:SET/SPLIT, layer-error with the same text, humaneval, csr, ...",
    )
    p.add_argument("--out", required=True, metavar="ROWS.jsonl", help="rows are appended to it")
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    p.add_argument("--limit", type=int, help="at most so many problems or windows of text, for a quick look")
    p.add_argument("--tokens", type=int, default=50_000, help="tokens of such text (default: 50000)")
    p.add_argument("--seq-len", type=int, default=1024, help="tokens a window of it (default: 1024)")
    p.add_argument("--decode", action="store_true", help="perplexity token by token, with decoding's arithmetic (slow)")
    p.add_argument("--samples", type=int, help="continuations a problem (default: 1, or the largest k)")
    p.add_argument("--k", metavar="K[,K]", help="the k of pass@k (default: 1, and 10 from 10 samples on)")
    p.add_argument("--temperature", type=float, help="0 is greedy (default: 0 for one sample, 0.8 for several)")
    p.add_argument("--top-p", type=float, help="nucleus to sample from (default: 0.95 when sampling)")
    p.add_argument("--max-tokens", type=int, help="new tokens a continuation at most (default: the task's)")
    p.add_argument("--chat", action="store_true", help="put prompts into the model's chat template")
    p.add_argument("--slots", type=int, help="sequences side by side on each core (default: as memory allows)")
    p.add_argument("--unsafe-code", action="store_true", help="run model-written code even where nothing isolates it")
    p.add_argument("--wordnet", metavar="DIR", help="WordNet's dictionary files (default: where Debian puts them)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of text and of sampling (default: 0)")
    p.add_argument("--dtype", choices=arguments.DTYPES, help="of weights and arithmetic (default: as stored)")
    arguments.packs(p)
    arguments.runs_model(p)

    p = verbs.add("report", _report, "print the table of files of rows")
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

    p = verbs.add("study", _study, "run a grid of extractions and evaluations from a file; goes on where it stopped")
    p.add_argument("file", metavar="FILE.toml", help="the study (docs/studies.md)")
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


def _eval(args: argparse.Namespace) -> None:
    import torch

    from submodel.report import table
    from submodel.tasks import evaluate, parse_task
    from submodel.tasks.evaluate import Settings
    from submodel.tasks.rows import read_rows

    tasks = [parse_task(spec) for spec in args.task]
    settings = Settings(
        tokens=args.tokens,
        seq_len=args.seq_len,
        seed=args.seed,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        device=args.device,
        limit=args.limit,
        data_dir=arguments.directory(args.data_dir),
        samples=args.samples,
        ks=_whole_numbers("--k", args.k),
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        chat=args.chat,
        slots=args.slots,
        unsafe_code=args.unsafe_code,
        wordnet=arguments.directory(args.wordnet),
        weight_format=args.format,
        decode=args.decode,
    )
    out = Path(args.out)
    already: dict[str, Row] = {}
    with Bar("", "") as bar:
        rows = list(
            evaluate(
                args.model,
                tasks,
                out,
                settings,
                base=args.base,
                trust_remote_code=args.trust_remote_code,
                progress=bar.named,
                say=say,
                already=lambda row: already.update({row.key: row}),
            )
        )
    found = {"rows": [row.__dict__ for row in rows], "already": [row.__dict__ for row in already.values()]}
    show(args, found, [table(read_rows(out))])


def _report(args: argparse.Namespace) -> None:
    from submodel.report import table
    from submodel.tasks.rows import read_rows

    for file in args.rows:
        if not Path(file).is_file():
            raise SubmodelError(f"{file}: no such file: give the rows that submodel eval wrote")
    rows = [row for file in args.rows for row in read_rows(Path(file))]
    compared = args.against if args.won_back is None else args.won_back
    if any(row.task == "bench" for row in rows) and compared is None:
        from submodel import bench

        text = bench.table(rows, markdown=args.markdown)
    else:
        results = [row for row in rows if row.task != "bench"]
        text = table(results, against=compared, won_back=args.won_back is not None, markdown=args.markdown)
    show(args, {"rows": [row.__dict__ for row in rows]}, [text])


def _study(args: argparse.Namespace) -> int:
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


def _whole_numbers(option: str, given: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in given.split(",")})) if given else ()
    except ValueError as error:
        raise SubmodelError(f"{option} {given!r}: give whole numbers with commas, such as 1,10") from error
