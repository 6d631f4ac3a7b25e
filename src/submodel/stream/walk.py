"""The walk: every block is read once; each domain runs it dense, prunes it, and runs it pruned.

This is the order of Wanda and of the paper: the inputs of a block are those that the pruned blocks before it
produce, its statistics are gathered while it is still dense. In memory are one batch of hidden states a core, the
block, and a pruned copy of it. A journal is written after every block, so the same walk started again goes on there.
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.models import Base, Matrix, blocks_of, matrices_of
from submodel.stream.activations import Activations
from submodel.stream.observe import Found, Make, Merged, Observer, Statistic
from submodel.stream.record import Call, Recorder
from submodel.workers import Workers


@dataclass(frozen=True)
class Pruned:
    """A matrix, or some rows of it, after pruning.

    Attributes:
        keep: bool mask, True = kept.
        weight: the new weights, of the mask's shape and 0 where dropped; None where the kept weights are unchanged.
    """

    keep: torch.Tensor
    weight: torch.Tensor | None = None


Decide = Callable[[str, str, torch.Tensor, list[Statistic | None] | None], Pruned]
"""Domain, matrix name, its weight as stored, its statistics (one, or one per expert) -> what is left of it."""

Keep = Callable[[int, dict[str, dict[str, Pruned]]], None]
"""Block index, domain -> matrix name -> what is left: called once a block, before the walk counts it as done."""

_BATCH_TOKENS = 512


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32."""
    if torch.device(device).type != "cpu":
        return torch.bfloat16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else torch.float32


def walk(
    base: Base,
    domains: Sequence[Samples],
    *,
    make: Make | None,
    decide: Decide,
    keep: Keep,
    work: Path,
    dtype: torch.dtype,
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
        prefix, blocks = blocks_of(model)
        targets = base.targets(model)
        plans = [_Domain(d, model, work / d.name, dtype, batch_tokens, stack) for d in domains] if make else []
        parts = [part for plan in plans for part in plan.parts]
        start = _read_journal(work, parts)
        _record(base, model, prefix, blocks, targets, parts, device, fresh=start == 0)
        if start:
            blocks[0].to_empty(device="meta")
        # masks are decided on the stored weights: read apart when the arithmetic has another dtype
        stored = model if base.dtype == dtype else base.skeleton(base.dtype)
        workers = stack.enter_context(Workers(device))
        tell = _Counter(progress, len(blocks), sum(2 * part.tokens for part in parts), start)
        for index in range(start, len(blocks)):
            name = f"{prefix}.{index}"
            block = blocks[index]
            if any(parameter.is_meta for parameter in block.parameters()):
                base.fill(model, lambda target, at=name: target.startswith(f"{at}."), targets)
            if stored is not model:
                base.fill(stored, lambda target, at=name: target.startswith(f"{at}."), targets)
            if index + 1 < len(blocks):
                following = f"{prefix}.{index + 1}."
                base.source.prefetch([key for key, target in targets.items() if target.startswith(following)])
            weights = {m.name: m.weight for m in matrices_of(stored.get_submodule(name), name)}
            block.to(device)
            matrices = matrices_of(block, name)
            pruned: dict[str, dict[str, Pruned]] = {}
            if make is None:
                pruned = {d.name: {n: decide(d.name, n, w, None) for n, w in weights.items()} for d in domains}
            for plan in plans:
                assert make is not None
                found, *openings = [
                    _observe(part, index, block, matrices, make, device, workers, tell) for part in plan.parts
                ]
                for other in openings:
                    _weigh_in(found, other)
                pruned[plan.name] = _decide(plan.name, matrices, weights, found, decide, workers)
                for part in plan.parts:
                    _run_pruned(part, index, block, matrices, pruned[plan.name], device, workers, tell)
            keep(index, pruned)
            _write_journal(work, index + 1, parts)
            tell.block()
            block.to_empty(device="meta")
            if stored is not model:
                stored.get_submodule(name).to_empty(device="meta")
        return start


class _Domain:
    """One domain in the walk: its samples in batches, its hidden states, the recorded calls of its batches.

    `parts` are itself and, if its samples have openings, these as a domain of one-token samples.
    """

    def __init__(
        self, samples: Samples, model: Any, folder: Path, dtype: torch.dtype, batch_tokens: int, stack: ExitStack
    ):
        count, seq_len = samples.ids.shape
        hidden = model.config.get_text_config().hidden_size
        self.name = samples.name
        self.samples = samples
        self.tokens = sum(samples.sizes)
        self.hidden = stack.enter_context(Activations(folder, (count, seq_len, hidden), dtype))
        step = max(1, batch_tokens // seq_len) if samples.lengths is None else 1
        self.batches = [(at, min(at + step, count)) for at in range(0, count, step)]
        self.calls: list[list[Call]] = []
        self.parts: list[_Domain] = [self]
        if samples.openings is not None:
            alone = Samples(f"{samples.name} openings", samples.openings[:, None])
            self.parts.append(_Domain(alone, model, folder / "openings", dtype, batch_tokens, stack))

    def read(self, block: int, start: int, stop: int) -> torch.Tensor:
        hidden = self.hidden.read(block, start, stop)
        return hidden if self.samples.lengths is None else hidden[:, : self.samples.lengths[start]]

    def weights(self, start: int, stop: int) -> torch.Tensor | None:
        """What each token of a batch counts for, (tokens,); None where all count the same."""
        weights = self.samples.weights
        if weights is None:
            return None
        return weights[start:stop, : self.samples.lengths[start] if self.samples.lengths else None].flatten()

    def write(self, block: int, start: int, hidden: torch.Tensor) -> None:
        padding = self.hidden.shape[1] - hidden.shape[1]
        self.hidden.write(block, start, nn.functional.pad(hidden, (0, 0, 0, padding)) if padding else hidden)


def _record(
    base: Base,
    model: Any,
    prefix: str,
    blocks: nn.ModuleList,
    targets: dict[str, str],
    plans: list[_Domain],
    device: str,
    fresh: bool,
) -> None:
    """Run what stands before the blocks: the first hidden states, and what each block is called with."""
    if not plans:
        return
    head = {f"{n}.weight" for n, m in model.named_modules() if m is model.get_output_embeddings()}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    unused = {name for name in head if name not in tied}
    # of the embeddings only the rows of tokens that occur: the whole can outweigh many blocks
    embeddings = {f"{n}.weight" for n, m in model.named_modules() if m is model.get_input_embeddings()}
    rows = sorted(set(torch.cat([plan.samples.ids.unique() for plan in plans]).tolist()))
    for name in embeddings & set(targets.values()):
        base.fill_rows(model, name, rows, targets)
        unused.add(name)
    base.fill(model, lambda target: not target.startswith(f"{prefix}.") and target not in unused, targets)
    model.tie_weights()
    front = [module for name, module in model.named_modules() if not name.startswith(prefix)]
    for module in front:
        _move_own(module, device)

    def fill_first() -> None:
        base.fill(model, lambda target: target.startswith(f"{prefix}.0."), targets)
        blocks[0].to(device)

    recorder = Recorder(model, blocks, fill_first)
    for plan in plans:
        for start, stop in plan.batches:
            ids = plan.samples.ids[start:stop]
            if plan.samples.lengths is not None:
                ids = ids[:, : plan.samples.lengths[start]]
            hidden, calls = recorder.record(ids.to(device))
            plan.calls.append(calls)
            if fresh:
                plan.write(0, start, hidden)
    for module in front:
        _move_own(module, "meta")


def _move_own(module: nn.Module, device: str) -> None:
    """Move a module's own tensors, not its children's, as far as they are there."""
    for key, parameter in module._parameters.items():
        if parameter is not None and not parameter.is_meta:
            module._parameters[key] = nn.Parameter(parameter.to(device), requires_grad=False)
    for key, buffer in module._buffers.items():
        if buffer is not None and not buffer.is_meta:
            module._buffers[key] = buffer.to(device)


class _Counter:
    """Counts tokens through runs of blocks, or blocks when nothing runs."""

    def __init__(self, progress: Callable[[int, int], Any], blocks: int, per_block: int, start: int):
        self._progress = progress
        self._per_block = per_block
        self._total = blocks * (per_block or 1)
        self._done = start * (per_block or 1)
        self._lock = threading.Lock()
        progress(self._done, self._total)

    def tokens(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._progress(self._done, self._total)

    def block(self) -> None:
        if not self._per_block:
            self.tokens(1)


def _observe(
    plan: _Domain,
    index: int,
    block: nn.Module,
    matrices: list[Matrix],
    make: Make,
    device: str,
    workers: Workers,
    tell: _Counter,
) -> Found:
    def run(batch: int) -> Found:
        hidden = plan.read(index, *plan.batches[batch]).to(device)
        found = observer.run(block, plan.calls[batch][index], hidden, plan.weights(*plan.batches[batch]))
        tell.tokens(hidden.shape[0] * hidden.shape[1])
        return found

    merged = Merged()
    with Observer(matrices, make) as observer:
        workers.map(lambda batch: merged.add(batch, lambda: run(batch)), range(len(plan.batches)))
    return merged.whole


def _weigh_in(found: Found, openings: Found) -> None:
    """Add the statistics of one-token samples to those of the text; shared ones once."""
    for statistic, other in {id(found[key]): (found[key], openings[key]) for key in found if key in openings}.values():
        statistic.add_openings(other)


def _decide(
    domain: str,
    matrices: list[Matrix],
    weights: dict[str, torch.Tensor],
    found: Found,
    decide: Decide,
    workers: Workers,
) -> dict[str, Pruned]:
    def one(matrix: Matrix) -> Pruned:
        experts = matrix.weight.shape[0] if matrix.weight.dim() == 3 else 1
        return decide(domain, matrix.name, weights[matrix.name], [found.get((matrix.name, e)) for e in range(experts)])

    return {m.name: left for m, left in zip(matrices, workers.map(one, matrices), strict=True)}


def _run_pruned(
    plan: _Domain,
    index: int,
    block: nn.Module,
    matrices: list[Matrix],
    pruned: dict[str, Pruned],
    device: str,
    workers: Workers,
    tell: _Counter,
) -> None:
    def run(batch: int) -> None:
        start, stop = plan.batches[batch]
        hidden = plan.read(index, start, stop).to(device)
        plan.write(index + 1, start, plan.calls[batch][index].run(block, hidden))
        tell.tokens(hidden.shape[0] * hidden.shape[1])

    dense = {m.name: m.weight.data for m in matrices}
    for matrix in matrices:
        left = pruned[matrix.name]
        if left.weight is None:
            matrix.weight.data = matrix.weight.data * left.keep.to(device)
        else:
            matrix.weight.data = left.weight.to(device, matrix.weight.dtype)
    workers.map(run, range(len(plan.batches)))
    for matrix in matrices:
        matrix.weight.data = dense[matrix.name]


def _write_journal(work: Path, done: int, plans: list[_Domain]) -> None:
    journal = {
        "done": done,
        "crc32": {plan.name: [crc for _, crc in sorted(plan.hidden.crc32.items())] for plan in plans},
    }
    partial = work / "journal.partial"
    partial.write_text(json.dumps(journal))
    os.replace(partial, work / "journal.json")


def _read_journal(work: Path, plans: list[_Domain]) -> int:
    """How many blocks are done; 0 when there is no journal or the hidden states are not those it speaks of."""
    try:
        journal = json.loads((work / "journal.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    done = int(journal["done"])
    try:
        whole = all(plan.hidden.checksums(done, plan.batches) == journal["crc32"][plan.name] for plan in plans)
    except (KeyError, OSError) as error:
        raise SubmodelError(f"{work}: its journal is not of this extraction ({error}): remove the folder") from error
    return done if whole else 0
