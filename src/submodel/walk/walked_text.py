"""The domains of a walk: samples in batches, hidden states on disk, what the blocks are called with, a journal."""

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.base.matrices import blocks_of
from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.walk.activations import Activations
from submodel.walk.record import Call, Recorder


class WalkedText:
    """One domain in the walk: its samples in batches, its hidden states, the recorded calls of its batches.

    `parts` are itself and, if its samples have openings, these as a domain of one-token samples. `dense` is itself once
    more, for the dense model's hidden states, where they are asked for (`paired`).
    """

    def __init__(
        self,
        samples: Samples,
        model: Any,
        folder: Path,
        dtype: torch.dtype,
        batch_tokens: int,
        stack: ExitStack,
        paired: bool = False,
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
        self.parts: list[WalkedText] = [self]
        if samples.openings is not None:
            alone = Samples(f"{samples.name} openings", samples.openings[:, None])
            self.parts.append(WalkedText(alone, model, folder / "openings", dtype, batch_tokens, stack))
        self.dense: WalkedText | None = None
        if paired:
            twin = replace(samples, name=f"{samples.name} dense", openings=None)
            self.dense = WalkedText(twin, model, folder / "dense", dtype, batch_tokens, stack)

    @property
    def all_parts(self) -> list["WalkedText"]:
        """All that has hidden states of its own."""
        return [*self.parts, *([self.dense] if self.dense else [])]

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


def record(base: Base, model: PreTrainedModel, texts: list[WalkedText], device: str, fresh: bool) -> None:
    """Run what stands before the blocks: what they are called with and, of a fresh walk, the first hidden states."""
    if not texts:
        return
    (prefix, blocks), targets = blocks_of(model), base.targets(model)
    head = {f"{n}.weight" for n, m in model.named_modules() if m is model.get_output_embeddings()}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    unused = {name for name in head if name not in tied}
    # of the embeddings only the rows of tokens that occur: the whole can outweigh many blocks
    embeddings = {f"{n}.weight" for n, m in model.named_modules() if m is model.get_input_embeddings()}
    rows = sorted(set(torch.cat([text.samples.ids.unique() for text in texts]).tolist()))
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
    for text in texts:
        for start, stop in text.batches:
            ids = text.samples.ids[start:stop]
            if text.samples.lengths is not None:
                ids = ids[:, : text.samples.lengths[start]]
            hidden, calls = recorder.record(ids.to(device))
            text.calls.append(calls)
            if fresh:
                text.write(0, start, hidden)
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


def write_journal(work: Path, done: int, texts: list[WalkedText]) -> None:
    """Note that so many blocks are done, and the checksums of the hidden states that the next one starts from."""
    journal = {
        "done": done,
        "crc32": {text.name: [crc for _, crc in sorted(text.hidden.crc32.items())] for text in texts},
    }
    partial = work / "journal.partial"
    partial.write_text(json.dumps(journal))
    os.replace(partial, work / "journal.json")


def read_journal(work: Path, texts: list[WalkedText]) -> int:
    """How many blocks are done; 0 when there is no journal or the hidden states are not those it speaks of."""
    try:
        journal = json.loads((work / "journal.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return 0
    done = int(journal["done"])
    try:
        whole = all(text.hidden.checksums(done, text.batches) == journal["crc32"][text.name] for text in texts)
    except (KeyError, OSError) as error:
        raise SubmodelError(f"{work}: its journal is not of this extraction ({error}): remove the folder") from error
    return done if whole else 0
