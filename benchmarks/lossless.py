"""Greedy text of a sub-model's formats against dense with zeros in place, token for token.

    python -m benchmarks.lossless STORE@NAME PATH[:COLUMN] [--prompts 50] [--prompt-tokens 64] [--tokens 128]
                                  [--formats bf16,shared,int8,int4]

Prompts are openings of held-out windows of the text; sequences are decoded one by one. Printed for each format: prompts
whose text is the very same, and at which token the others part, in order. bf16 and shared must lose nothing.
"""

import argparse

from submodel.calibration import load_samples
from submodel.runtime import Loaded, Request, generate_batch, load


def _texts(loaded: Loaded, prompts: list[tuple[int, ...]], tokens: int) -> dict[str, tuple[int, ...]]:
    requests = [Request(str(i), prompt, tokens) for i, prompt in enumerate(prompts)]
    return {c.key: c.tokens for c in generate_batch(loaded, requests, slots=1)}


def _parts(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """The first token that differs."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("reference", metavar="STORE@NAME")
    p.add_argument("text", metavar="PATH[:COLUMN]")
    p.add_argument("--prompts", type=int, default=50)
    p.add_argument("--prompt-tokens", type=int, default=64)
    p.add_argument("--tokens", type=int, default=128)
    p.add_argument("--formats", default="bf16,shared,int8,int4")
    args = p.parse_args()
    zeros = load(args.reference, weight_format="dense")
    given = load_samples(
        "prompts",
        args.text,
        zeros.tokenizer,
        samples=args.prompts,
        seq_len=args.prompt_tokens,
        seed=0,
        split="held-out",
    )
    prompts = [tuple(ids) for ids in given.ids.tolist()]
    expected = _texts(zeros, prompts, args.tokens)
    del zeros
    print(f"{args.reference}: {len(prompts)} prompts of {args.prompt_tokens} tokens, {args.tokens} new tokens, greedy")
    for form in args.formats.split(","):
        found = _texts(load(args.reference, weight_format=form), prompts, args.tokens)
        parted = sorted(_parts(found[key], expected[key]) for key in expected if found[key] != expected[key])
        print(f"{form:12} {len(expected) - len(parted)} of {len(expected)} the same; the others part at {parted}")


if __name__ == "__main__":
    main()
