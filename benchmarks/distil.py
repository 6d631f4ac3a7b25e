"""A step of `distil` on a real model, its own loops in native code and as torch does them.

    python -m benchmarks.distil MODEL_DIR [--tokens 512] [--rounds 8] [--threads N] [--pattern 2:4]

Steps whose divergence and scores are native code (csrc/divergence.h, move.h) and those of the torch twins take turns in
one process, on the same text and matrices; the products of the model are torch's in both. Times are of the processor,
so that what else the machine does counts for little: medians, in brackets the least and the most. The floor of moving
is that of its bytes: gradient, weight and score read, score and masked weight written, at the rate at which this
machine sums a large array.
"""

import argparse
import os

import torch

from benchmarks.measure import machine, machine_line, processor_seconds, show, spread, table
from submodel.base import native
from submodel.base.matrices import all_matrices
from submodel.base.opening import open_base
from submodel.prune import gradients as whole
from submodel.prune.learn import distil
from submodel.prune.sparsity import Sparsity, keep_mask, parse_sparsity


def _matrix(parameter: torch.nn.Parameter, pattern: Sparsity) -> distil._Matrix:
    """Magnitude's mask of a parameter: which one it is makes no difference to the time."""
    parameter.requires_grad_()
    dense = parameter.data.view(-1, parameter.shape[-1])
    keep = keep_mask(dense.abs().float(), pattern)
    scores = distil.first_scores(dense, keep, torch.ones(dense.shape[1]), pattern)
    return distil._Matrix(
        whole.Twin(parameter, dense, dense * keep), pattern, scores, torch.zeros(len(dense), 1), dense
    )


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("model")
    p.add_argument("--tokens", type=int, default=distil.STEP_TOKENS)
    p.add_argument("--rounds", type=int, default=8)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--pattern", help="N:M; half of every row if not given")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    before = os.getloadavg()[0]
    library = native.library()
    if library is None:
        raise SystemExit("no native kernels: python csrc/build.py")
    base, pattern = open_base(args.model), parse_sparsity(None, args.pattern)
    dtype = torch.bfloat16 if machine(1)["bf16"] else torch.float32  # as `extract` does
    model = base.load(dtype).requires_grad_(False)
    model.set_attn_implementation("eager")
    matrices = [_matrix(model.get_parameter(matrix.name), pattern) for matrix in all_matrices(model)]
    twins = [matrix.twin for matrix in matrices]
    ids = torch.randint(base.config.get_text_config().vocab_size, (args.tokens,))

    took: dict[str, list[tuple[float, float]]] = {"native": [], "torch": []}
    for step in range(args.rounds + 1):
        for name, found in (("native", library), ("torch", None)):
            native.library = lambda found=found: found
            learn = processor_seconds(
                lambda: whole.learn(model, twins, ids, torch.ones(len(ids)) / len(ids), hidden=distil.HIDDEN)
            )
            move = processor_seconds(lambda step=step: [matrix.move(0.001, step) for matrix in matrices])
            if step:  # the first round is a warm-up
                took[name].append((learn, move))
    block = torch.ones(1 << 26)
    rate = block.nbytes / min(processor_seconds(block.sum) for _ in range(7))
    weights = sum(matrix.scores.numel() for matrix in matrices)
    size = weights * (3 * dtype.itemsize + 2 * 4)
    print(f"{base.reference}, {pattern}, {args.tokens} tokens a step, {str(dtype)[6:]}, {weights:,} weights")
    print(machine_line(machine(args.threads), before, os.getloadavg()[0]))
    rows = [["processor seconds", "native", "torch", "torch / native"]]
    for label, part in (("gradients", slice(0, 1)), ("scores moved", slice(1, 2)), ("a step", slice(0, 2))):
        fast, slow = ([sum(times[part]) for times in took[name]] for name in ("native", "torch"))
        ratios = spread([b / a for a, b in zip(fast, slow, strict=True)])
        rows.append([label, show(spread(fast)), show(spread(slow)), show(ratios)])
    rows.append([f"floor of moving: {size / 1e9:.1f} GB at {rate / 1e9:.1f} GB/s", f"{size / rate:.2f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
