"""The tables of docs/results, made again from the rows that are committed beside them.

    python -m benchmarks.results            writes every table anew
    python -m benchmarks.results --check    says which differ, exit status 1 if any does

A page holds a table between two comments. The first names files of rows, from the page's folder, and options of
`submodel report`; what it prints with --markdown is the table:

    <!-- rows: rows/methods-smol.jsonl --against python-wanda-50 -->
    <!-- end -->
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

from submodel import cli
from submodel.errors import SubmodelError

RESULTS = Path(__file__).parent.parent / "docs/results"
_BEGIN, _END = "<!-- rows: ", "<!-- end -->"
_CODE = re.compile(r"^```.*?^```$", re.M | re.S)
_TABLE = re.compile(rf"({_BEGIN}(.+?) -->\n).*?({_END})", re.S)


def made_again(page: Path) -> str:
    """The text of a page with every table written anew.

    Raises:
        SubmodelError: a comment is not closed, or `submodel report` refuses its files or options.
    """
    text = page.read_text()
    blocks = _CODE.findall(text)  # what shows how it is done is no table
    parts = [_tables_in(part, page) for part in _CODE.split(text)]
    return parts[0] + "".join(block + part for block, part in zip(blocks, parts[1:], strict=True))


def _tables_in(text: str, page: Path) -> str:
    opened, closed = text.count(_BEGIN), text.count(_END)
    if len(_TABLE.findall(text)) != opened or opened != closed:
        raise SubmodelError(f"{page}: {opened} tables begin and {closed} end: close each with {_END}")
    with contextlib.chdir(page.parent):
        return _TABLE.sub(lambda match: f"{match[1]}\n{report(shlex.split(match[2]))}\n\n{match[3]}", text)


def report(words: list[str]) -> str:
    """What `submodel report --markdown` prints for files of rows and options, from the current folder."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = cli.main(["report", "--markdown", *words])
    if status:
        raise SubmodelError(f"submodel report {shlex.join(words)}: {said.getvalue().strip()}")
    return printed.getvalue().strip()


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, say which pages differ")
    parser.add_argument("page", nargs="*", type=Path, help="pages (default: all of docs/results)")
    args = parser.parse_args(words)
    differing = 0
    for page in args.page or sorted(RESULTS.glob("*.md")):
        text = made_again(page)
        if text == page.read_text():
            continue
        differing += 1
        print(f"{page}: {'differs from its rows' if args.check else 'written'}")
        if not args.check:
            partial = page.with_name(f".{page.name}")
            partial.write_text(text)
            os.replace(partial, page)
    return 1 if args.check and differing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SubmodelError as error:
        sys.exit(str(error))
