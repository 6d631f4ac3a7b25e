"""submodel eval"""

import argparse
from pathlib import Path

from submodel.cli import options
from submodel.cli.console import Bar, say, show
from submodel.errors import SubmodelError


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `eval`."""
    p.epilog = options.DECODING
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
    p.add_argument("--dtype", choices=options.DTYPES, help="of weights and arithmetic (default: as stored)")
    options.add_format(p)
    options.add_running(p)


def run(args: argparse.Namespace) -> None:
    """Measure, and print the table of all rows of the file."""

    from submodel.api.measuring import evaluate
    from submodel.report import table
    from submodel.tasks.rows import read_rows

    with Bar("", "") as bar:
        rows = evaluate(
            args.model,
            args.task,
            args.out,
            base=args.base,
            trust_remote_code=args.trust_remote_code,
            progress=bar.named,
            say=say,
            tokens=args.tokens,
            seq_len=args.seq_len,
            seed=args.seed,
            dtype=options.dtype(args),
            device=args.device,
            limit=args.limit,
            data_dir=options.directory(args.data_dir),
            samples=args.samples,
            ks=_numbers("--k", args.k),
            temperature=args.temperature,
            top_p=args.top_p,
            max_tokens=args.max_tokens,
            chat=args.chat,
            slots=args.slots,
            unsafe_code=args.unsafe_code,
            wordnet=options.directory(args.wordnet),
            weight_format=args.format,
            decode=args.decode,
        )
    document = {"rows": [row.__dict__ for row in rows.new], "already": [row.__dict__ for row in rows.already]}
    show(args, document, [table(read_rows(Path(args.out)))])


def _numbers(option: str, given: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in given.split(",")})) if given else ()
    except ValueError as error:
        raise SubmodelError(f"{option} {given!r}: give whole numbers with commas, such as 1,10") from error
