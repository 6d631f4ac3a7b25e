"""The options of submodel extract."""

import argparse

from submodel.cli import options

TOKENS, SEQ_LEN = 32768, 512  # as in `calibration.packing`, which help must not wait for

DELETED = {
    "--minutes": "--effort quick, good or best, which does not depend on how fast the machine is",
    "--rate": "nothing in its place: one rate serves every model",
    "--openings": "nothing in its place: each method knows its own number",
    "--weighting": "nothing in its place: every token counts alike",
}
"""Options that evidence has removed (docs/results/settled.md) -> what to give instead."""


class _Deleted(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        option = self.option_strings[0]
        parser.error(f"{option} was removed (docs/results/settled.md): give {DELETED[option]}")


def add_options(p: argparse.ArgumentParser) -> None:
    """What a person needs first; all else is under "advanced"."""
    p.usage = (
        "submodel extract MODEL --domain D --out STORE [--sparsity S | --pattern N:M] [--effort E] [--tokens N] "
        "[--dry-run] [--json] [advanced]"
    )
    p.add_argument("model", metavar="MODEL", help="Hugging Face directory, hub id or .gguf file")
    p.add_argument(
        "--domain",
        action="append",
        default=[],
        metavar="D",
        help="what it is for: a named set (python, java, math, ...), NAME=PATH for a repository or a file of your own, "
        "NAME=python:2+java:1 for a mixture by tokens; give it several times for several sub-models",
    )
    p.add_argument("--out", required=True, metavar="STORE", help="the store; made if it is not there")
    p.add_argument("--sparsity", type=float, help="the fraction of the weights to remove (default: 0.5)")
    p.add_argument("--pattern", metavar="N:M", help="keep N of every M consecutive weights instead, such as 2:4")
    p.add_argument(
        "--effort",
        metavar="E",
        help="quick: Wanda, in minutes; good: the best that holds one block in memory; best: the best that there is "
        "for this machine's memory (default: good)",
    )
    p.add_argument(
        "--tokens",
        type=options.tokens,
        help=f"calibration tokens of every domain (default: {TOKENS}); auto: as many as Wanda's masks need to settle",
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and what it costs, and do nothing")

    for option in DELETED:
        p.add_argument(option, nargs="?", action=_Deleted, help=argparse.SUPPRESS)

    a = p.add_argument_group("advanced: text")
    a.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=PATH[:COLUMN]",
        help="a domain from own JSONL, parquet or text, or from a source tree (then COLUMN is its language)",
    )
    a.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    a.add_argument("--samples", type=int, help="a number of calibration samples, in place of --tokens")
    a.add_argument("--seq-len", type=int, default=SEQ_LEN, help=f"tokens a sample (default: {SEQ_LEN})")
    a.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        help="of --tokens auto: Jaccard distance to the masks of unlimited text that is expected (default: 0.02)",
    )
    a.add_argument("--shape", default="packed", help="packed, or document: a sample is one document (default: packed)")
    a.add_argument("--form", default="raw", help="raw, or fim: fill in the middle (default: raw)")
    a.add_argument("--seed", type=int, default=0, help="of the choice of text (default: 0)")
    a.add_argument(
        "--skip-contamination",
        action="store_true",
        help="do not look for the problems of tasks in --data-dir among the calibration text",
    )

    a = p.add_argument_group("advanced: method")
    a.add_argument(
        "--method",
        help="in place of --effort: magnitude, wanda, ria, swaps, pursuit or sparsegpt; +reconstruct fits the kept "
        "weights, +distil moves the mask by gradients of the whole model, +reconstruct+distil does both",
    )
    a.add_argument(
        "--allocation",
        help="how the sparsity is spread: uniform; rows, by the gradients of the dense model; marginal, by those of "
        "the sub-model (default: uniform, or what --effort takes)",
    )
    a.add_argument(
        "--grid",
        metavar="FORMAT",
        help=f"{options.either(options.GRIDS)}: give the kept weights values that this packed format holds exactly, "
        "each rounding made up for by others (default: packing rounds each weight to the nearest)",
    )
    a.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="find the highest sparsity at which --held-out loses no more than so many nats a token",
    )
    a.add_argument(
        "--held-out",
        metavar="TEXT",
        help="text of the domain that calibration does not see: PATH[:COLUMN], or SET/SPLIT such as python/test",
    )

    a.add_argument(
        "--vocab",
        default="all",
        help="the tokens that it can say: all of the base's, or domain: those that the domain needs (default: all)",
    )
    a.add_argument(
        "--vocab-loss",
        type=float,
        metavar="PART",
        help="of --vocab domain: what the domain's held-out text may lose of its bits a byte (default: 0.005)",
    )

    a = p.add_argument_group("advanced: result")
    a.add_argument("--name", action="append", default=[], help="a sub-model's name (default: its domain's)")
    a.add_argument("--no-check", action="store_true", help="do not measure the result on held-out text")
    a.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="MODEL",
        help="after a repository's extraction: how much better it fits the repository's held-out files than this",
    )
    a.add_argument("--no-routing", action="store_true", help="leave out what the router keeps of each domain's text")

    a = p.add_argument_group("advanced: machine")
    a.add_argument(
        "--dtype", choices=options.DTYPES, help="of the arithmetic (default: bfloat16 where the processor has it)"
    )
    a.add_argument("--batch-tokens", type=int, default=512, help="tokens at once on one core (default: 512)")
    options.add_running(a, moved=False)
