"""Layer error: what part of the output of its matrices a sub-model loses, on held-out text.

Of every matrix W of every block ||(W - W') X||_F^2 / ||W X||_F^2, with the sub-model's W' and the inputs X that W has
in the **dense** base: each matrix is measured by itself, without what pruned blocks before it hand on. One walk over
the base gathers the Gram matrix of every input. The experts of a mixture that one parameter holds count as one matrix.

The value is the mean over matrices, and its 95% interval a bootstrap over matrices: it says how much the mean rests on
a few of them, not how another text would change it. `Row.parts` has every matrix in the order of the model.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.base.matrices import all_matrices, split_name
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.prune.statistics import Gram
from submodel.runtime import Loaded
from submodel.tasks.cell import Cell, filled
from submodel.tasks.intervals import bootstrap
from submodel.tasks.perplexity import text_of
from submodel.tasks.rows import Row
from submodel.walk import Pruned, Statistic, walk

_ROWS_AT_ONCE = 512
_PRUNED = 0.2  # zeros among the weights; those of a dense model that was quantised are fewer


def layer_error_rows(cell: Cell) -> Iterator[Row]:
    """`layer-error:TEXT`, TEXT as of a perplexity; the base itself loses nothing.

    Raises SubmodelError when there is no base to compare with, or one of other matrices.
    """
    loaded, settings = cell.loaded, cell.settings
    base = _base_of(cell)
    samples, data, used = text_of(cell)
    if loaded.manifest is None and base.sha256 != loaded.base.sha256:
        data["base_sha256"] = base.sha256
    row = cell.row("layer error", data, used)
    if cell.is_done(row):
        return
    started = time.monotonic()
    names = [matrix.name for matrix in all_matrices(loaded.model)]
    if loaded.manifest is None and base.sha256 == loaded.base.sha256:
        errors = dict.fromkeys(names, 0.0)
    else:
        what = f"{loaded.name} on {cell.task.spec}"
        errors = layer_errors(
            base, loaded, samples, device=settings.device, progress=lambda done, total: cell.progress(what, done, total)
        )
    values = np.array([errors[name] for name in names])
    measured = filled(row, float(values.mean()), bootstrap(values), samples.ids.numel(), started, values)
    yield replace(measured, kinds=_by_kind(names, values))


def layer_errors(
    base: Base,
    loaded: Loaded,
    samples: Samples,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> dict[str, float]:
    """The relative output error of every matrix, by name; 0 where the dense output is 0.

    Args:
        base: the dense model that `loaded` was made from.
        loaded: a sub-model, not packed; its dtype is that of the arithmetic.
        samples: held-out text.
        device: where the base's blocks run.
        progress: told tokens done and in all.

    Raises:
        SubmodelError: the two have not the same matrices.
    """
    errors: dict[str, float] = {}
    parameters = dict(loaded.model.named_parameters())
    dtype = loaded.model.dtype

    def measure(_: str, name: str, weight: torch.Tensor, statistics: Sequence[Statistic | None] | None) -> Pruned:
        pruned = parameters.get(name)
        if pruned is None or pruned.shape != weight.shape:
            raise SubmodelError(f"{loaded.reference}: {name} is not that of {base.reference}: give its own --base")
        if not any(statistics or ()):
            raise SubmodelError(f"{name}: its experts are not computed by linear layers: their inputs cannot be seen")
        errors[name] = _error(weight.to(dtype), pruned, statistics or ())
        return Pruned(torch.ones(1, dtype=torch.bool).expand(weight.shape))

    with tempfile.TemporaryDirectory(prefix="submodel-") as folder:
        walk(
            base,
            [replace(samples, name="text")],  # a name of the walk's is one of a folder
            make=Gram,
            decide=measure,
            keep=lambda block, masks: None,
            work=Path(folder),
            dtype=dtype,
            device=device,
            progress=progress,
        )
    return errors


def _error(weight: torch.Tensor, pruned: torch.Tensor, statistics: Sequence[Statistic | None]) -> float:
    """The error of one matrix, or of those experts in it that a token reached."""
    lost = total = 0.0
    pairs = [(weight, pruned)] if weight.dim() == 2 else zip(weight, pruned, strict=True)
    for (dense, sparse), inputs in zip(pairs, statistics, strict=True):
        if not isinstance(inputs, Gram):
            continue
        device = inputs.products.device
        for a, b in zip(dense.split(_ROWS_AT_ONCE), sparse.split(_ROWS_AT_ONCE), strict=True):
            rows = a.to(device, torch.float32)
            lost += inputs.energy(rows - b.to(device, torch.float32))
            total += inputs.energy(rows)
    return lost / total if total else 0.0


def _base_of(cell: Cell) -> Base:
    """What a model is compared with: a sub-model's base, or the one given for an exported directory, or itself."""
    loaded = cell.loaded
    if loaded.weight_format is not None:
        raise SubmodelError(f"{loaded.reference}: layer-error compares weights as stored: give STORE@NAME, no --format")
    if loaded.manifest is not None:
        return loaded.base
    if cell.base is not None:
        key = ("base", cell.base)
        if key not in cell.shared:
            cell.shared[key] = open_base(cell.base, loaded.base.trust_remote_code)
        return cell.shared[key]
    matrices = [matrix.weight for matrix in all_matrices(loaded.model)]
    zeros = 1 - sum(int(m.count_nonzero()) for m in matrices) / sum(m.numel() for m in matrices)
    if zeros > _PRUNED:
        raise SubmodelError(
            f"{loaded.reference}: {zeros:.0%} of its weights are 0, and there is no base to compare with: "
            "give the one that it was made from with --base"
        )
    return loaded.base


def _by_kind(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """The mean over blocks of each kind of matrix, by its name in the block."""
    kinds = [split_name(name)[1] for name in names]
    return {kind: round(float(values[[other == kind for other in kinds]].mean()), 6) for kind in dict.fromkeys(kinds)}
