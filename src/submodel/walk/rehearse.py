"""Try on a few tokens, before any work, that a base's blocks can be walked: one block of each kind is read and run.

Families differ in ways that no configuration says: states of a shape of their own between blocks, a matrix whose weight
is used without its layer being called, experts that are multiplied all at once.
"""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch

from submodel.base.arithmetic import quicken
from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.models import Base, first_line
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.walk.observe import Observer
from submodel.walk.walked_text import WalkedText, record

_TOKENS = 8
_ODD = (RuntimeError, AttributeError, TypeError, ValueError, LookupError)


class _Nothing:
    """A statistic that only shows that an input was seen."""

    def update(self, inputs: torch.Tensor) -> None: ...

    def merge(self, other: Self) -> None: ...

    def clear(self) -> None: ...

    def add_openings(self, other: Self) -> None: ...


def rehearse(base: Base, dtype: torch.dtype, device: str = "cpu") -> None:
    """Raises SubmodelError, which says what cannot be done, for a base that cannot be walked.

    Args:
        base: the base model.
        dtype, device: of the arithmetic.
    """
    with torch.inference_mode(), ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = base.skeleton(dtype)
        if device == "cpu":
            quicken(model)
        prefix, blocks = blocks_of(model)
        if any(name.startswith(f"{prefix}.") for name in getattr(model, "all_tied_weights_keys", {})):
            raise SubmodelError(_refusal(base, "its blocks share matrices"))
        targets = base.targets(model)
        text = WalkedText(Samples("rehearsal", torch.arange(_TOKENS)[None]), model, folder, dtype, _TOKENS, stack)
        try:
            record(base, model, [text], device, fresh=True)
        except SubmodelError:
            raise
        except _ODD as error:
            reason = f"what it passes to its blocks cannot be recorded ({first_line(error)})"
            raise SubmodelError(_refusal(base, reason)) from error
        hidden = text.read(0, 0, 1).to(device)
        tried: set[tuple[object, ...]] = set()
        for index, block in enumerate(blocks):
            name = f"{prefix}.{index}"
            matrices = matrices_of(block, name)
            kind = (type(block), *((m.name.removeprefix(name), tuple(m.weight.shape)) for m in matrices))
            if kind in tried:
                continue
            tried.add(kind)
            if index:  # the first has been read
                base.fill(model, lambda target, at=name: target.startswith(f"{at}."), targets)
            try:
                with Observer(matrices, lambda cols, where: _Nothing()) as observer:
                    seen, out = observer.run_to_end(block.to(device), text.calls[0][index], hidden)
            except SubmodelError:
                raise
            except _ODD as error:
                reason = f"{name} does not run in {str(dtype)[6:]} ({first_line(error)}): try another --dtype"
                raise SubmodelError(_refusal(base, reason)) from error
            if out.shape != hidden.shape:
                raise SubmodelError(_refusal(base, f"{name} gives no hidden states of the shape that it takes"))
            reached = {matrix for matrix, _ in seen}
            for matrix in matrices:
                if matrix.name not in reached:
                    how = "all experts at once" if matrix.weight.dim() == 3 else "without calling its layer"
                    raise SubmodelError(_refusal(base, f"{matrix.name} is computed {how}, so its input cannot be seen"))
            block.to_empty(device="meta")


def _refusal(base: Base, reason: str) -> str:
    family = base.config.get_text_config().model_type
    return f"{base.reference}: models of the family {family} cannot be pruned: {reason}"
