"""The verb that answers over HTTP: serve."""

import argparse
import contextlib
import os
import re
import sys

from submodel.cli import arguments
from submodel.cli.console import say, show
from submodel.errors import SubmodelError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add(verbs: arguments.Verbs) -> None:
    """The verbs of this module."""
    p = verbs.add("serve", _serve, "answer OpenAI's API with the right sub-model for each request")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    p.add_argument("--port", type=int, default=8000, help="0 is any free one (default: 8000)")
    p.add_argument(
        "--format", default="bf16", help="how weights are kept: bf16, int8, int4, shared or shared-int8 (default: bf16)"
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


def _serve(args: argparse.Namespace) -> None:
    import logging
    from dataclasses import replace
    from pathlib import Path

    from submodel.router import open_router

    try:
        from submodel.serve.access import Limits
        from submodel.serve.registry import open_registry
        from submodel.serve.server import Server, Settings
        from submodel.serve.upstream import parse_upstream
    except ModuleNotFoundError as error:
        raise SubmodelError(f"serve needs {error.name}: pip install 'submodel[serve]'") from error

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    limits = Limits()
    if args.requests:
        limits = replace(limits, requests=args.requests)
    if args.max_tokens:
        limits = replace(limits, tokens=args.max_tokens)
    settings = Settings(
        host=args.host,
        port=args.port,
        memory_bytes=None if args.memory is None else _size(args.memory),
        api_key=args.api_key or os.environ.get("SUBMODEL_API_KEY"),
        default=args.default,
        upstreams=dict(parse_upstream(spec) for spec in args.upstream),
        upstream_key=os.environ.get("SUBMODEL_UPSTREAM_KEY"),
        limits=limits,
    )
    registry = open_registry(Path(args.store), args.format, args.base, args.trust_remote_code)
    router = open_router(registry.store, registry.base)
    if router.missing:
        say(f"without statistics for routing: {', '.join(router.missing)}; see submodel route --fit")
    server = Server(registry, router.choose, settings)
    names = [*registry.names, *settings.upstreams]
    show(args, {"url": server.url, "models": names}, [f"{server.url}/v1 answers as auto, {', '.join(names)}"])
    sys.stdout.flush()  # a program that started this one waits for the line
    with contextlib.suppress(KeyboardInterrupt):  # raised again when all is put away
        server.run()
    say("stopped")


def _size(given: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", given.strip(), re.IGNORECASE)
    if not found or not float(found[1]):
        raise SubmodelError(f"--memory {given!r}: give a size, such as 8G or 512M")
    return int(float(found[1]) * _UNITS[found[2].upper()])
