"""The command line: a verb parses its options, calls one public function and prints.

Everything that takes a model takes a Hugging Face directory, a hub id, a .gguf file or STORE@NAME. With --json exactly
one JSON document goes to standard output; progress and messages go to standard error. Exit status 0: done; 2: wrong
use or bad input, said in one line; 1: a defect.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterable

from submodel.cli.console import say, signs_of_life, write_any_text
from submodel.cli.options import Parser, check
from submodel.errors import SubmodelError

# Once a verb is imported its module is a name in here, so nothing below may use the builtins `list` and `eval`.
VERBS = {
    "extract": "derive one sub-model per domain",
    "list": "say what is in a store",
    "info": "print a sub-model's sizes and recipe",
    "verify": "check every checksum, the base's identity and the exact sparsity of every row",
    "rebase": "record where the base of a store is now",
    "copy": "copy sub-models to another store, which then stands by itself",
    "remove": "take a sub-model out of its store",
    "compare": "print the Jaccard distances between sub-models",
    "export": "write a sub-model as a plain Hugging Face directory, or packed",
    "eval": "measure models on tasks; cells that are already in the file are skipped",
    "report": "print the table of files of rows",
    "bench": "compare speed, memory and quality of models and their bases in one interleaved run",
    "generate": "continue a prompt, streamed to the terminal",
    "serve": "answer OpenAI's API with the right sub-model for each request",
    "route": "say which sub-model of a store answers a request, and why",
    "study": "run a grid of extractions and evaluations from a file; goes on where it stopped",
}
"""Every verb with its line of help. Its module has the same name, and `add_options(parser)` and `run(args)`, which
returns the exit status, None for 0."""


def parser(verbs: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """The command line, with the options of `verbs`; only their modules are imported."""
    complete = frozenset(verbs)
    top = Parser(prog="submodel", description="Derive specialised sub-models from one language model by pruning.")
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for verb, about in VERBS.items():
        p = subparsers.add_parser(verb, help=about, description=about[0].upper() + about[1:] + ".")
        if verb in complete:
            module = importlib.import_module(f"submodel.cli.{verb}")
            p.add_argument("--json", action="store_true", help="print one JSON document")
            module.add_options(p)
            p.set_defaults(run=module.run)
    return top


_LIGHT = ("list", "info", "copy", "remove", "compare", "report", "study")
"""The verbs that open no model, or leave that to other processes."""


def main(argv: Iterable[str] | None = None) -> int:
    """Run one verb; returns the exit status. Without `argv` the process is this one verb's."""
    words = sys.argv[1:] if argv is None else [*argv]
    args = parser(VERBS.keys() & words[:1]).parse_args(words)
    # threads that wait for each other by spinning slow a shared machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    write_any_text()
    try:
        check(args)
        if argv is None and args.verb not in _LIGHT:
            from submodel.cli.lean_imports import import_transformers

            import_transformers()
        if args.verb == "serve":  # has no end to wait for
            return args.run(args) or 0
        with signs_of_life(f"submodel {args.verb}"):
            return args.run(args) or 0
    except SubmodelError as error:
        say(f"submodel {args.verb}: {error}")
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        say("interrupted: the same command goes on where this one stopped")
        return 130
