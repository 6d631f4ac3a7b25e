"""What steps cost: operations and bytes from the base's shapes, seconds from this machine's speed.

An estimate to plan with: operations are those of matrix products, and the machine's rate is that of one large product.
"""

import os
import time
from collections.abc import Sequence
from functools import cache

import torch

from submodel.base.matrices import all_matrices, split_name
from submodel.calibration import Samples
from submodel.extract.step import Cost, Job
from submodel.prune import gradients
from submodel.prune.gradients import memory_of_gradients
from submodel.prune.scores import Score
from submodel.prune.statistics import Gram

_WALK_RUNS = 2  # of a block: dense to observe, pruned to go on
_FIT_STEPS = 10  # products with the Gram matrix that a row takes, on average
_EXCHANGE = 150  # operations a weight and exchange step, about, in a choice by exchanges
_EFFICIENCY = 0.5  # of the rate of one large product that a block reaches with all that is in it


def gradient_cost(job: Job, tokens: int, bytes_beside: int) -> Cost:
    """Of gradients of the whole model.

    Args:
        job: the extraction.
        tokens: that gradients are taken of.
        bytes_beside: bytes a prunable weight beside the dense model.
    """
    operations = 2.0 * gradients.RUNS * tokens * job.base.parameters
    memory = memory_of_gradients(job.base, job.dtype, bytes_beside)
    return Cost(gradients.RUNS * tokens * job.blocks, operations, memory)


def walk_cost(job: Job, score: Score, texts: Sequence[Samples], paired: bool, fit: bool) -> Cost:
    """Of a walk over the base.

    Args:
        job: the extraction.
        score: that decides.
        texts: what is read of every domain; none if nothing is.
        paired: the dense model walks along.
        fit: the kept weights are fitted.
    """
    matrices = all_matrices(job.base.skeleton(job.base.dtype))
    shapes = [(m.weight.shape[:-1].numel(), m.weight.shape[-1], split_name(m.name)[0]) for m in matrices]
    tokens = sum(sum(text.sizes) for text in texts)
    read = tokens * (2 if paired else 1) + score.openings * len(texts)
    operations = 2.0 * _WALK_RUNS * read * sum(rows * cols for rows, cols, _ in shapes)

    # products of inputs with each other, and what is solved with them; matrices of one input share them, about two each
    gram = paired or (isinstance(score.statistic, type) and issubclass(score.statistic, Gram))
    if gram:
        operations += (2 if paired else 1) * tokens * sum(cols * cols for _, cols, _ in shapes) / 2
    if fit:
        operations += 2.0 * _FIT_STEPS * len(texts) * sum(rows * cols * cols for rows, cols, _ in shapes)
    if score.openings:
        operations += _EXCHANGE * len(texts) * sum(rows * cols for rows, cols, _ in shapes)

    block: dict[int, int] = {}
    for rows, cols, index in shapes:
        block[index] = block.get(index, 0) + rows * cols
    widest = max(cols for _, cols, _ in shapes)
    workers = len(os.sched_getaffinity(0)) if job.device == "cpu" else 1
    copies = job.base.dtype.itemsize + 2 * job.dtype.itemsize
    memory = max(block.values()) * copies + workers * job.batch_tokens * widest * 16
    memory += 4 * widest * widest * (3 if paired else 1) * workers if gram else 0
    return Cost(_WALK_RUNS * read * job.blocks, operations, memory)


def seconds(cost: Cost, dtype: torch.dtype, device: str) -> float:
    """How long a step takes on this machine, roughly."""
    return cost.operations / (_EFFICIENCY * _rate(dtype, device))


@cache
def _rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of a product of 512 x 2,048 by 2,048 x 2,048, the best of a few."""
    inputs, weight = (torch.ones(rows, 2048, dtype=dtype, device=device) for rows in (512, 2048))
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((inputs @ weight.T)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * 512 * 2048 * 2048 / best
