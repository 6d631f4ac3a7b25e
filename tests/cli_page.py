"""docs/reference/cli.md from the command line's own help: python -m tests.cli_page > docs/reference/cli.md"""

import argparse
import os

from submodel.cli import parser


def render() -> str:
    """The page."""
    os.environ["COLUMNS"] = "100"
    top = parser()
    verbs = next(a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    parts = ["# Command line\n\nGenerated from `submodel VERB --help` by `python -m tests.cli_page`.\n"]
    parts += [f"## {name}\n\n```\n{sub.format_help()}```\n" for name, sub in verbs.choices.items()]
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
