"""submodel compare"""

import argparse
from itertools import combinations
from typing import Any

from submodel.cli.console import show
from submodel.errors import SubmodelError


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `compare`."""
    p.add_argument("model", nargs="+", metavar="STORE@NAME")


def run(args: argparse.Namespace) -> None:
    """Print the distances of every pair."""
    from submodel.api.stores import compare
    from submodel.report import aligned

    if len(args.model) < 2:
        raise SubmodelError("compare needs two sub-models or more: give STORE@A STORE@B")
    pairs: dict[str, Any] = {}
    lines = ["Jaccard distance of the kept weights (1 - both / either), and fraction of positions that differ"]
    for a, b in combinations(args.model, 2):
        comparison = compare(a, b)
        whole = comparison.whole
        groups = {
            "block": {str(k): v.jaccard_distance for k, v in comparison.blocks.items()},
            "type": {k: v.jaccard_distance for k, v in comparison.types.items()},
            "matrix": {k: v.jaccard_distance for k, v in comparison.matrices.items()},
        }
        if comparison.vocabulary:
            groups["vocabulary"] = {k: v.jaccard_distance for k, v in comparison.vocabulary.items()}
        pairs[f"{a} {b}"] = {"whole": whole.jaccard_distance, "differing": whole.differing, **groups}
        lines.append(f"\n{a}  {b}: {whole.jaccard_distance:.4f}, {whole.differing:.4f} differ")
        kinds = [["matrix type", "distance"], *([k, f"{v:.4f}"] for k, v in groups["type"].items())]
        blocks = [["block", "distance"], *([k, f"{v:.4f}"] for k, v in groups["block"].items())]
        lines += [aligned(kinds), aligned(blocks)]
        for kind, overlap in comparison.vocabulary.items():
            lines.append(
                f"vocabulary ({kind}): {overlap.both:,} tokens in both, {overlap.differ:,} in one: distance "
                f"{overlap.jaccard_distance:.4f}"
            )
    show(args, {"set": "kept weights", "pairs": pairs}, lines)
