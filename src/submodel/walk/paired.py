"""The dense model beside the pruned one: what a block's matrices get in both, token by token.

Matrices are decided in the order in which they are computed, those with one input together, a stage: when a stage is
looked at, the matrices before it in the block are pruned already, so it sees what it will get, and what it would have
got in the dense model. No name says which matrix adds its output to the residual stream: a run shows whose output plus
a hidden state is the next one. What the pruned model's stream lacks there is told to the statistic as well.

Experts see some of the tokens, other ones in the two models: with what else cannot be paired they are decided in
the end, from the pruned model's inputs alone.
"""

import copy
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import nn

from submodel.base.matrices import Matrix, matrices_of
from submodel.walk.block import Answer, Block, Counter, Pruned
from submodel.walk.observe import Make, Merged, Statistic, Statistics
from submodel.walk.record import Call, _Stop
from submodel.walk.walked_text import WalkedText


class PairedStatistic(Statistic, Protocol):
    """A statistic that can take in an input of the pruned model together with the dense model's."""

    def update_paired(
        self, inputs: torch.Tensor, dense: torch.Tensor, weight: torch.Tensor | None, lack: torch.Tensor | None
    ) -> None:
        """Take in the inputs of a stage, (tokens, cols) of the pruned model and of the dense one.

        Args:
            inputs, dense: row by row of the same tokens.
            weight: (rows, cols) dense, of a stage of one matrix.
            lack: (tokens, rows), what the pruned model's residual stream lacks where the matrix adds its output.
        """
        ...


@dataclass(frozen=True)
class Stage:
    """Matrices with one input.

    Attributes:
        matrices: their names; the first is computed first.
        module: of the block, by its name in it, that computes the first.
        stream: of one that adds its output to the residual stream: the module of the block whose input that stream is
            before, "" for the block's own; None where nothing is added.
    """

    matrices: tuple[str, ...]
    module: str
    stream: str | None = None


def stages_of(block: nn.Module, call: Call, hidden: torch.Tensor, matrices: Iterable[Matrix]) -> list[Stage]:
    """The stages of a block, from one run of it: all matrices of two dimensions that get every token, once.

    Args:
        block: as stored.
        call, hidden: to run it with, hidden states (samples, tokens, hidden).
        matrices: of the block.
    """
    owners = {id(m.module): m.name for m in matrices if m.weight.dim() == 2}
    modules: dict[str, str] = {}
    inputs: dict[str, torch.Tensor] = {}
    twice: set[str] = set()
    writes: dict[str, str] = {}
    stream = ("", hidden)  # as far as it is known: the module before which it is, and its state
    outputs: dict[str, torch.Tensor] = {}  # since then

    def follow_stream(name: str, state: torch.Tensor) -> None:
        """A state that is the stream and an output of a matrix is the stream from there on."""
        nonlocal stream
        before, now = stream
        if state.shape != hidden.shape or state is now:
            return
        for matrix, output in outputs.items():
            if torch.equal(state, now + output):
                writes[matrix] = before
                stream = (name, state)
                outputs.clear()
                return

    def before(name: str, matrix: str | None) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if not args or not isinstance(args[0], torch.Tensor):
                return
            follow_stream(name, args[0])
            if matrix is None:
                return
            if matrix in inputs:
                twice.add(matrix)
            modules[matrix], inputs[matrix] = name, args[0]

        return hook

    def after(matrix: str) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: torch.Tensor) -> None:
            if output.shape == hidden.shape:
                outputs[matrix] = output

        return hook

    handles: list[Any] = []
    for name, module in block.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(before(name, owners.get(id(module)))))
        if matrix := owners.get(id(module)):
            handles.append(module.register_forward_hook(after(matrix)))
    try:
        follow_stream("", call.run(block, hidden))
    finally:
        for handle in handles:
            handle.remove()
    by_input: dict[int, list[str]] = {}
    for matrix, given in inputs.items():
        if given.shape[:-1] == hidden.shape[:-1] and matrix not in twice:
            by_input.setdefault(id(given), []).append(matrix)
    return [
        Stage(tuple(names), modules[names[0]], writes.get(names[0]) if len(names) == 1 else None)
        for names in by_input.values()
    ]


def decide_paired(
    here: Block,
    name: str,
    text: WalkedText,
    dense: WalkedText,
    make: Make,
    weights: dict[str, torch.Tensor],
    decide: Answer,
) -> dict[str, Pruned]:
    """Prune the matrices of a block stage by stage, and take the dense model's hidden states through it.

    Args:
        here: the block, dense.
        name: of the block in the model.
        text: hidden states of the pruned model.
        dense: of the dense model, of the same samples.
        make: an empty `PairedStatistic`.
        weights: of all matrices as stored.
        decide: the answer for one matrix.
    """
    start, stop = text.batches[0]
    call, hidden = text.calls[0][here.index], dense.read(here.index, start, stop).to(here.device)
    stages = stages_of(here.module, call, hidden, here.matrices)
    partly_pruned = _copy(here.module, name)
    matrices = {m.name: m for m in matrices_of(partly_pruned, name)}
    pruned: dict[str, Pruned] = {}

    def put_in_place(results: dict[str, Pruned]) -> None:
        for matrix, one in results.items():
            values = weights[matrix] * one.keep if one.weight is None else one.weight
            parameter = matrices[matrix].weight
            parameter.data = values.to(parameter.device, parameter.dtype)
        pruned.update(results)

    runs = sum(part.tokens for part in text.parts) + 2 * dense.tokens
    for number, stage in enumerate(stages, 1):
        pairs = [_Pair(here, partly_pruned, part, dense if part is text else None) for part in text.parts]
        seen = add_openings([pair.observe(stage, make, last=number == len(stages)) for pair in pairs])
        put_in_place(here.decide([m for m in here.matrices if m.name in stage.matrices], weights, seen, decide))
        del seen  # it is large
        here.counter.tokens(runs * number // len(stages) - runs * (number - 1) // len(stages))
    if not stages:
        here.pass_on(dense)
        here.counter.tokens(runs - dense.tokens)
    if rest := [m for m in matrices.values() if m.name not in pruned]:
        alone = replace(here, module=partly_pruned, matrices=rest, counter=Counter(lambda done, total: None, 0, 0, 0))
        seen = add_openings([alone.observe(part, make) for part in text.parts])
        put_in_place(alone.decide(rest, weights, seen, decide))
    return pruned


def add_openings(parts: list[Statistics]) -> Statistics:
    """The statistics of a text, those of its one-token samples added if it has any; shared ones once."""
    total, *openings = parts
    for other in openings:
        for one, more in {id(total[key]): (total[key], other[key]) for key in total if key in other}.values():
            one.add_openings(more)
    return total


def _copy(block: nn.Module, name: str) -> nn.Module:
    """A block with parameters of its own for its matrices, their values as yet the same; all else is shared."""
    tensors = [*block.parameters(), *block.buffers()]
    partly_pruned = copy.deepcopy(block, {id(tensor): tensor for tensor in tensors})
    for matrix in matrices_of(partly_pruned, name):
        setattr(matrix.module, matrix.attribute, nn.Parameter(matrix.weight.data, requires_grad=False))
    return partly_pruned


@dataclass(frozen=True)
class _Pair:
    """A block dense and as far as it is pruned, and the hidden states of the same samples for either.

    One-token samples have none in the dense model: what their states lack is a few huge numbers, not to be made up for.
    """

    here: Block
    partly_pruned: nn.Module
    text: WalkedText
    dense: WalkedText | None

    def observe(self, stage: Stage, make: Make, last: bool) -> Statistics:
        """What a stage gets; after the last one the dense model's hidden states go on."""
        index = self.here.index
        modules = [stage.module, *([stage.stream] if stage.stream else [])]
        weight = None
        if len(stage.matrices) == 1:
            weight = next(m.weight for m in self.here.matrices if m.name == stage.matrices[0])

        def run(batch: int) -> Statistics:
            start, stop = self.text.batches[batch]
            rows: list[list[torch.Tensor]] = []
            for part, tap in ((self.text, pruned_tap), (self.dense, dense_tap)):
                if part is None:
                    continue
                hidden = part.read(index, start, stop).to(self.here.device)
                seen, out = tap.run(part.calls[batch][index], hidden)
                seen[""] = hidden
                rows.append([seen[key].flatten(0, 1) for key in (stage.module, stage.stream) if key is not None])
                if out is not None:
                    part.write(index + 1, start, out)
            inputs = rows[0][0]
            statistic: Any = merged.make(inputs.shape[1], inputs.device)
            if self.dense is None:
                statistic.update(inputs)
                return {(matrix, 0): statistic for matrix in stage.matrices}
            dense_inputs, lack = rows[1][0], rows[1][1].float() - rows[0][1] if stage.stream is not None else None
            if (scale := self.text.weights(start, stop)) is not None:
                scale = scale.to(inputs.device).sqrt()[:, None]
                inputs, dense_inputs, lack = (
                    inputs * scale,
                    dense_inputs * scale,
                    None if lack is None else lack * scale,
                )
            statistic.update_paired(inputs, dense_inputs, weight, lack)
            return {(matrix, 0): statistic for matrix in stage.matrices}

        merged = Merged(make)
        with _Tap(self.partly_pruned, modules) as pruned_tap, _Tap(self.here.module, modules, to_end=last) as dense_tap:
            self.here.workers.map(lambda at: merged.add(at, lambda: run(at)), range(len(self.text.batches)))
        return merged.total


class _Tap:
    """Catches the inputs of some modules of a block in a run.

    Args:
        block: to run.
        modules: their names in it.
        to_end: run to the end; else only until the first of them is to be computed.
    """

    def __init__(self, block: nn.Module, modules: list[str], to_end: bool = False):
        self._block = block
        self._modules = modules
        self._stop = None if to_end else modules[0]
        self._run = threading.local()
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for name in self._modules:
            module = self._block.get_submodule(name)
            self._handles.append(module.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for handle in self._handles:
            handle.remove()

    def run(self, call: Call, hidden: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Module name -> its input; the new hidden states, if it ran to the end."""
        self._run.seen, out = {}, None
        try:
            out = call.run(self._block, hidden)
        except _Stop:
            pass
        return self._run.__dict__.pop("seen"), out

    def _hook(self, name: str) -> Any:
        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._run.seen[name] = args[0]
            if name == self._stop:
                raise _Stop

        return before
