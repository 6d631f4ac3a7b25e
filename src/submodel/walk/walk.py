"""The walk: every block is read once; each domain runs it dense, prunes it, and runs it pruned.

This is the order of Wanda and of the paper: the inputs of a block are those that the pruned blocks before it
produce, its statistics are gathered while it is still dense. In memory are one batch of hidden states a core, the
block, and a pruned copy of it. A journal is written after every block, so the same walk started again goes on there.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from submodel.base.arithmetic import quicken
from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.models import Base
from submodel.base.workers import Workers
from submodel.calibration import Samples
from submodel.walk.block import Answer, Block, Counter, Pruned
from submodel.walk.observe import Make, Statistic
from submodel.walk.paired import add_openings, decide_paired
from submodel.walk.walked_text import WalkedText, read_journal, record, write_journal

Decide = Callable[[str, str, torch.Tensor, list[Statistic | None] | None], Pruned]
"""Domain, matrix name, its weight as stored, its statistics (one, or one per expert) -> what is kept of it."""


@dataclass(frozen=True)
class Afterwards:
    """What becomes of a block when it has been run pruned; the hidden states it gave stay as they are.

    Attributes:
        make: an empty statistic for an input of so many columns; the inputs are those in the pruned block.
        decide: matrix name, its weight as stored, what the pruning left, the statistics -> what is kept of it.
    """

    make: Make
    decide: Callable[[str, torch.Tensor, Pruned, list[Statistic | None]], Pruned]


Keep = Callable[[int, dict[str, dict[str, Pruned]]], None]
"""Block index, domain -> matrix name -> what is kept: called once a block, before the walk counts it as done."""

_BATCH_TOKENS = 512


def walk(
    base: Base,
    domains: Sequence[Samples],
    *,
    make: Make | None,
    decide: Decide,
    keep: Keep,
    work: Path,
    dtype: torch.dtype,
    afterwards: Afterwards | None = None,
    paired: bool = False,
    device: str = "cpu",
    batch_tokens: int = _BATCH_TOKENS,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> int:
    """Prune every block of `base` for every domain.

    Args:
        base: the model; its weights are read block by block.
        domains: token samples, all with different names.
        make: an empty statistic for an input of so many columns; None runs no block and decides on weights alone.
        decide: the pruning method: weight and statistics -> mask, and new weights if it makes any.
        keep: takes a block's pruned matrices.
        work: a folder for hidden states and the journal; the caller removes it in the end.
        afterwards: with `make` alone: what is kept of a block instead, once it has run.
        paired: the dense model walks along, and `make` gives a `PairedStatistic` (see `paired`).
        dtype: of the arithmetic; masks are decided on the weights as stored.
        device: where blocks run.
        batch_tokens: about how many tokens run at once in one worker (a core).
        progress: told tokens done and in all; a token counts once per run of a block.

    Returns:
        The number of blocks that an earlier, unfinished walk in `work` had done.

    Raises:
        SubmodelError: the model cannot be walked.
    """
    with torch.inference_mode(), ExitStack() as stack:
        model = base.skeleton(dtype)
        if device == "cpu":
            quicken(model)
        prefix, blocks = blocks_of(model)
        targets = base.targets(model)
        texts = (
            [WalkedText(d, model, work / d.name, dtype, batch_tokens, stack, paired) for d in domains] if make else []
        )
        parts = [part for text in texts for part in text.all_parts]
        start = read_journal(work, parts)
        record(base, model, parts, device, fresh=start == 0)
        if start:
            blocks[0].to_empty(device="meta")
        # masks are decided on the stored weights: read apart when the arithmetic has another dtype
        stored = model if base.dtype == dtype else base.skeleton(base.dtype)
        workers = stack.enter_context(Workers(device))
        counter = Counter(progress, len(blocks), sum(2 * part.tokens for part in parts), start)
        for index in range(start, len(blocks)):
            # read the block, and let the disk bring the next one meanwhile
            name, block = f"{prefix}.{index}", blocks[index]
            if any(parameter.is_meta for parameter in block.parameters()):
                base.fill(model, lambda target, at=name: target.startswith(f"{at}."), targets)
            if stored is not model:
                base.fill(stored, lambda target, at=name: target.startswith(f"{at}."), targets)
            if index + 1 < len(blocks):
                following = f"{prefix}.{index + 1}."
                base.source.prefetch([key for key, target in targets.items() if target.startswith(following)])
            weights = {m.name: m.weight for m in matrices_of(stored.get_submodule(name), name)}

            # prune it for every domain
            pruned: dict[str, dict[str, Pruned]] = {}
            if make is None:
                pruned = {d.name: {n: decide(d.name, n, w, None) for n, w in weights.items()} for d in domains}
            else:
                block_run = Block(index, block.to(device), matrices_of(block, name), device, workers, counter)
                for text in texts:
                    answer = partial(decide, text.name)
                    pruned[text.name] = _prune(block_run, name, text, make, weights, answer, afterwards)

            # keep the result before the block counts as done, and free it
            keep(index, pruned)
            write_journal(work, index + 1, parts)
            counter.block()
            block.to_empty(device="meta")
            if stored is not model:
                stored.get_submodule(name).to_empty(device="meta")
        return start


def _prune(
    block_run: Block,
    name: str,
    text: WalkedText,
    make: Make,
    weights: dict[str, torch.Tensor],
    decide: Answer,
    afterwards: Afterwards | None,
) -> dict[str, Pruned]:
    """Prune a block for one domain, and take the domain's hidden states through the pruned block."""
    if text.dense:
        result = decide_paired(block_run, name, text, text.dense, make, weights, decide)
    else:
        statistics = add_openings([block_run.observe(part, make) for part in text.parts])
        result = block_run.decide(block_run.matrices, weights, statistics, decide)
        del statistics  # a Gram matrix may be large
    with block_run.pruned(result):
        outputs = [block_run.pass_on(part, afterwards.make if afterwards else None) for part in text.parts]
    if afterwards:
        answer = partial(_afterwards, afterwards, result)
        result = block_run.decide(block_run.matrices, weights, add_openings(outputs), answer)
    return result


def _afterwards(
    afterwards: Afterwards,
    result: dict[str, Pruned],
    name: str,
    weight: torch.Tensor,
    statistics: list[Statistic | None],
) -> Pruned:
    return afterwards.decide(name, weight, result[name], statistics)
