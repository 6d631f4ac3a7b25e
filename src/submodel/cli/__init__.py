"""The command line: a verb parses its options, calls one public function and prints.

Everything that takes a model takes a Hugging Face directory, a hub id, a .gguf file or STORE@NAME. With --json exactly
one JSON document goes to standard output; progress and messages go to standard error. Exit status 0: done; 2: wrong
use or bad input, said in one line; 1: a defect.
"""

import argparse
import os
import sys

from submodel.cli import arguments, bench, derive, generate, measure, route, serve, store
from submodel.cli.arguments import Parser, Verbs
from submodel.cli.console import say
from submodel.errors import SubmodelError

GROUPS = (derive, store, measure, generate, bench, route, serve)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = Parser(prog="submodel", description="Derive specialised sub-models from one language model by pruning.")
    verbs = Verbs(top)
    for group in GROUPS:
        group.add(verbs)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = parser().parse_args(argv)
    # threads that wait for each other by spinning slow a shared machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        arguments.check(args)
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
