"""submodel generate"""

import argparse
from collections.abc import Callable
from typing import Any

from submodel.cli import options
from submodel.cli.console import show


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `generate`."""
    p.epilog = options.DECODING
    p.add_argument("model", metavar="MODEL")
    p.add_argument("--prompt", required=True)
    p.add_argument("--max-tokens", type=int, default=128, help="new tokens at most (default: 128)")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    p.add_argument("--top-p", type=float, default=1.0, help="nucleus to sample from (default: 1)")
    p.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    p.add_argument("--suffix", metavar="TEXT", help="what comes after: fill in what stands between the two")
    p.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    options.add_format(p)
    options.add_running(p)


def run(args: argparse.Namespace) -> None:
    """Print the text as it comes."""
    from submodel.api.running import generate

    write: Callable[[str], Any] = (lambda text: None) if args.json else _write
    text = generate(
        args.model,
        args.prompt,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        chat=args.chat,
        suffix=args.suffix,
        format=args.format,
        device=args.device,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
        write=write,
    )
    show(args, {"model": args.model, "prompt": args.prompt, "text": text}, [""])


def _write(text: str) -> None:
    print(text, end="", flush=True)
