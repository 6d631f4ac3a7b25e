"""See the inputs of a block's matrices while it runs.

Matrices that get the same input share one statistic. Once it is known which matrix is computed last, a run ends
when its input has been seen: that product and what follows are not needed to observe. Experts kept in one 3-D
parameter are recognised by the slice of it that a matrix product uses. Batches may run in several threads: each
gathers statistics of its own, and they are merged in the order of the batches, so the result does not depend on
which thread was faster.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from submodel.base.matrices import Matrix
from submodel.errors import SubmodelError
from submodel.walk.record import Call, _Stop


class Statistic(Protocol):
    """What a pruning method gathers of one input: `update` gets (tokens, cols), never a padding token.

    `add_openings` takes in what was gathered of one-token samples, for the methods that ask for them. `clear` makes it
    empty again, in the memory that it has.
    """

    def update(self, inputs: torch.Tensor) -> None: ...

    def merge(self, other: Self) -> None: ...

    def clear(self) -> None: ...

    def add_openings(self, other: Self) -> None: ...


Make = Callable[[int, torch.device], Statistic]
"""cols, device -> an empty statistic."""

Statistics = dict[tuple[str, int], Any]
"""(matrix name, expert) -> statistic; matrices with one input hold the same object."""


class Observer:
    """Watches a block's matrices while it is entered.

    Args:
        matrices: the block's prunable matrices.
        make: an empty statistic for an input.
    """

    def __init__(self, matrices: list[Matrix], make: Make):
        self._matrices = matrices
        self._make = make
        self._run = threading.local()
        self._final: str | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "Observer":
        for matrix in self._matrices:
            if matrix.weight.dim() == 2:
                self._handles.append(matrix.module.register_forward_pre_hook(self._hook(matrix.name)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for handle in self._handles:
            handle.remove()

    def run(
        self, block: torch.nn.Module, call: Call, hidden: torch.Tensor, weights: torch.Tensor | None = None
    ) -> Statistics:
        """Run the block on one batch (samples, tokens, hidden) as far as its last matrix.

        `weights` (samples x tokens,): a token of weight w counts as w tokens do.
        """
        run = self._run
        try:
            self.run_to_end(block, call, hidden, weights, stop=self._final)
            if sorted(run.seen) == sorted(m.name for m in self._matrices):
                self._final = run.seen[-1]
        except _Stop:
            pass
        return run.statistics

    def run_to_end(
        self,
        block: torch.nn.Module,
        call: Call,
        hidden: torch.Tensor,
        weights: torch.Tensor | None = None,
        stop: str | None = None,
    ) -> tuple[Statistics, torch.Tensor]:
        """The same to the block's end, with its new hidden states; raises _Stop before a matrix called `stop`."""
        run = self._run
        run.scale = None if weights is None else weights.to(hidden.device).sqrt()[:, None]
        run.statistics, run.last, run.seen, run.stop = {}, None, [], stop
        experts = [matrix for matrix in self._matrices if matrix.weight.dim() == 3]
        try:
            with _Experts(experts, self._see) if experts else nullcontext():
                return run.statistics, call.run(block, hidden)
        finally:
            run.last = None

    def _hook(self, name: str) -> Callable[..., None]:
        def before(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            self._see(name, 0, args[0])
            self._run.seen.append(name)
            if name == self._run.stop:
                raise _Stop

        return before

    def _see(self, name: str, expert: int, inputs: torch.Tensor) -> None:
        run = self._run
        if run.last is None or run.last[0] is not inputs:
            rows = inputs.reshape(-1, inputs.shape[-1])
            if not rows.shape[0]:
                return
            statistic = run.statistics.get((name, expert)) or self._make(rows.shape[1], rows.device)
            statistic.update(rows if run.scale is None else _scaled(name, rows, run.scale))
            run.last = (inputs, statistic)
        run.statistics[name, expert] = run.last[1]


def _scaled(name: str, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows of which a statistic of squares counts each by its weight."""
    if rows.shape[0] != scale.shape[0]:
        raise SubmodelError(
            f"{name}: sees some tokens only, as experts do: token weights cannot be used with this model"
        )
    return rows.float() * scale


class Merged:
    """The statistics of all batches, added up in the order of the batches, each as soon as its turn has come.

    A worker that is early waits, so no more statistics are held than there are workers, and the sum. One that has been
    added is emptied for a later batch: new memory would cost as much as what is put into it (dev/LOG.md).

    Args:
        make: an empty statistic.
    """

    def __init__(self, make: Make) -> None:
        self.total: Statistics = {}
        self._make = make
        self._sizes: dict[int, tuple[int, torch.device]] = {}  # by the identity of what was made
        self._spare: dict[tuple[int, torch.device], list[Statistic]] = {}
        self._next = 0
        self._failed = False
        self._turn = threading.Condition()

    def make(self, cols: int, device: torch.device) -> Statistic:
        """An empty statistic for `observe`."""
        with self._turn:
            spare = self._spare.get((cols, device))
            statistic = spare.pop() if spare else None
        if statistic:
            statistic.clear()
            return statistic
        statistic = self._make(cols, device)
        self._sizes[id(statistic)] = cols, device
        return statistic

    def add(self, batch: int, observe: Callable[[], Statistics]) -> None:
        """Take in what `observe` sees of a batch; batches are counted from 0 and come from any thread."""
        try:
            statistics = observe()
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise
        with self._turn:
            self._turn.wait_for(lambda: self._next == batch or self._failed)
            if self._failed:
                return
            self._merge(statistics)
            self._next += 1
            self._turn.notify_all()

    def _merge(self, statistics: Statistics) -> None:
        merged: set[int] = set()
        for key, statistic in statistics.items():
            if key not in self.total:
                self.total[key] = statistic
            elif id(self.total[key]) not in merged and self.total[key] is not statistic:
                merged.add(id(self.total[key]))
                self.total[key].merge(statistic)
        held = {id(statistic) for statistic in self.total.values()}
        for statistic in {
            id(statistic): statistic for statistic in statistics.values() if id(statistic) not in held
        }.values():
            self._spare.setdefault(self._sizes[id(statistic)], []).append(statistic)


class _Experts(TorchFunctionMode):
    """Watches `F.linear` for products with a slice of a 3-D parameter."""

    def __init__(self, matrices: list[Matrix], see: Callable[[str, int, torch.Tensor], None]):
        super().__init__()
        self._spans = [
            (m.name, m.weight.data_ptr(), m.weight.stride(0) * m.weight.element_size(), m.weight.shape[0])
            for m in matrices
        ]
        self._see = see

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) > 1:
            for name, start, size, count in self._spans:
                expert, offset = divmod(args[1].data_ptr() - start, size)
                if 0 <= expert < count and offset == 0:
                    self._see(name, expert, args[0])
        return func(*args, **(kwargs or {}))
