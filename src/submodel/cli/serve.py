"""submodel serve"""

import argparse
import contextlib
import os
import re
import sys

from submodel.cli import options
from submodel.cli.console import say, show
from submodel.errors import SubmodelError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    p.epilog = options.DECODING
    p.add_argument("store", metavar="STORE")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    p.add_argument("--port", type=int, default=8000, help="0 is any free one (default: 8000)")
    p.add_argument(
        "--format", default="bf16", help=f"how weights are kept: {options.either(options.MASKED)} (default: bf16)"
    )
    p.add_argument(
        "--memory", metavar="SIZE", help="for weights and caches, such as 8G (default: half of the machine's)"
    )
    p.add_argument(
        "--api-key",
        metavar="KEY",
        help="that clients must have; needed where others reach the address (default: SUBMODEL_API_KEY)",
    )
    p.add_argument(
        "--default", default="base", metavar="NAME", help="who answers when the router is unsure (default: base)"
    )
    p.add_argument(
        "--upstream",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="an OpenAI-compatible engine that holds sub-model NAME; its key, if it has one, in SUBMODEL_UPSTREAM_KEY",
    )
    p.add_argument(
        "--requests", type=int, help="answered or waiting at once; more are told to come back (default: 128)"
    )
    p.add_argument("--max-tokens", type=int, help="generated for one answer at most (default: 4096)")
    p.add_argument("--base", help="where the store's base is now, if it has moved")
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the model")


def run(args: argparse.Namespace) -> None:
    """Serve until interrupted."""
    import logging

    from submodel.api.running import serve

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)

    def ready(url: str, models: list[str]) -> None:
        lines = [f"{url}/v1 answers as auto, {', '.join(models)}", f"{url}/ is a page to chat with them"]
        show(args, {"url": url, "page": f"{url}/", "models": models}, lines)
        sys.stdout.flush()  # a program that started this one waits for the line

    with contextlib.suppress(KeyboardInterrupt):  # raised again when all is put away
        serve(
            args.store,
            host=args.host,
            port=args.port,
            format=args.format,
            memory_bytes=None if args.memory is None else _size(args.memory),
            api_key=args.api_key or os.environ.get("SUBMODEL_API_KEY"),
            default=args.default,
            upstreams=args.upstream,
            upstream_key=os.environ.get("SUBMODEL_UPSTREAM_KEY"),
            requests=args.requests,
            max_tokens=args.max_tokens,
            base=args.base,
            trust_remote_code=args.trust_remote_code,
            ready=ready,
            say=say,
        )
    say("stopped")


def _size(given: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", given.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise SubmodelError(f"--memory {given!r}: give a size, such as 8G or 512M")
    return int(float(match[1]) * _UNITS[match[2].upper()])
