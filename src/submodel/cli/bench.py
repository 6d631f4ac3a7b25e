"""submodel bench"""

import argparse
import sys

from submodel.cli import options
from submodel.cli.console import Bar, say, show
from submodel.errors import SubmodelError


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    p.add_argument("model", nargs="+", metavar="MODEL")
    formats = ",".join(options.SURVIVORS)
    p.add_argument("--formats", default=formats, help=f"of the sub-models (default: {formats})")
    p.add_argument("--threads", type=int, default=1, help="of each contender (default: 1)")
    p.add_argument("--rounds", type=int, default=10, help="that count, after one that warms up (default: 10)")
    p.add_argument("--prompt-tokens", type=int, default=256, help="of the prefill in a round (default: 256)")
    p.add_argument("--new-tokens", type=int, default=16, help="steps of decoding in a round (default: 16)")
    p.add_argument("--task", action="append", default=[], metavar="T", help="quality as well: any task of eval")
    p.add_argument("--limit", type=int, help="at most so many problems or windows of text of a task")
    p.add_argument("--tokens", type=int, default=50_000, help="tokens of a perplexity's text (default: 50000)")
    p.add_argument("--seq-len", type=int, default=1024, help="tokens a window of it (default: 1024)")
    p.add_argument("--decode", action="store_true", help="perplexity token by token, with decoding's arithmetic (slow)")
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    p.add_argument("--unsafe-code", action="store_true", help="run model-written code even where nothing isolates it")
    p.add_argument("--gguf", metavar="FILE", help="the base as GGUF: its weights are written for llama.cpp from it")
    p.add_argument("--llama-python", metavar="PYTHON", help="an interpreter that has llama-cpp-python (default: this)")
    p.add_argument("--out", required=True, metavar="ROWS.jsonl", help="rows are appended to it")
    p.add_argument("--base", help="where the store's base is now, if it has moved")
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the model")


def run(args: argparse.Namespace) -> None:
    """Measure, and print the table."""
    from submodel.api.measuring import benchmark, report
    from submodel.bench import Plan
    from submodel.tasks import parse_task

    for option in ("threads", "rounds", "prompt_tokens", "new_tokens"):
        if getattr(args, option) < 1:
            raise SubmodelError(f"--{option.replace('_', '-')} {getattr(args, option)}: give a larger number")
    for task in args.task:
        parse_task(task)
    settings = {key: getattr(args, key) for key in ("limit", "tokens", "seq_len", "decode", "data_dir", "unsafe_code")}
    plan = Plan(
        threads=args.threads,
        rounds=args.rounds,
        prompt_tokens=args.prompt_tokens,
        new_tokens=args.new_tokens,
        tasks=tuple(args.task),
        settings=settings,
        trust_remote_code=args.trust_remote_code,
        llama_python=args.llama_python or sys.executable,
    )
    with Bar("", "") as bar:
        rows = benchmark(
            args.model,
            args.out,
            args.formats.split(","),
            plan,
            gguf=args.gguf,
            base=args.base,
            trust_remote_code=args.trust_remote_code,
            progress=bar.named,
            say=say,
        )
    show(args, {"rows": [row.__dict__ for row in rows]}, [report(rows)])
