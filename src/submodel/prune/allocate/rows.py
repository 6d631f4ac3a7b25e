"""Sparsity by rows: fewer weights go of the rows whose outputs the model's loss feels more.

To second order a dropped weight w of a row costs about

    w^2 * sum over tokens of g^2 x^2 / 2,

x being its input and g the gradient of the loss by the row's output, the labels drawn from the model's own
predictions: the diagonal of the Fisher matrix. With x and g taken as independent it is the square of Wanda's score
times the mean of g^2, so one run of the dense model with its gradient finds it for all rows. The weights removed of all
rows together stay exactly as many as without it.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from submodel.base.weights import write_tensors
from submodel.calibration import Samples
from submodel.prune.allocate.allocation import Allocation
from submodel.prune.gradients import NORM_TOKENS, DenseModel, linears_of, sample, sampled_label_slopes
from submodel.prune.sparsity import RowSparsity
from submodel.prune.statistics import SquaredNorm

TOKENS = NORM_TOKENS  # of a domain's text that are read
ROW_SLOPE = 0.06  # sparsity of a row less for e times the cost of one more weight (dev/LOG.md)
_LEAST_KEPT = 0.05  # of what a row would keep if all kept equally many


def row_costs(
    dense: DenseModel,
    text: Samples,
    sparsity: RowSparsity,
    progress: Callable[[int], Any] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """What one more weight of each row costs, beyond those that the sparsity removes.

    Args:
        dense: the dense model.
        text: the domain's; its first 8,192 tokens are read.
        sparsity: what is dropped of every row, by Wanda's scores.
        progress: told how many more tokens are done.

    Returns:
        Matrix -> nats a token, float64 (rows,), to second order. Linears that no token reaches, and experts that are
        one parameter, have none.
    """
    text = text.first(TOKENS)
    linears = linears_of(dense.model, dense.matrices)
    norms = {name: SquaredNorm(linear.in_features, linear.weight.device) for name, linear in linears.items()}
    slopes = {name: torch.zeros(linear.out_features, dtype=torch.float64) for name, linear in linears.items()}

    def observe(name: str) -> Callable[..., None]:
        def see(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            norms[name].update(inputs[0].detach().flatten(0, -2))
            output.register_hook(add)

        def add(slope: torch.Tensor) -> None:
            slopes[name] += slope.flatten(0, -2).float().square().sum(0, dtype=torch.float64).cpu()

        return see

    with dense.reading(text) as model, ExitStack() as hooks:
        # the embeddings' output asks for a gradient, so that every linear's output has one and no weight needs it
        embeddings = model.get_input_embeddings()
        hooks.callback(embeddings.register_forward_hook(lambda _, __, output: output.requires_grad_()).remove)
        for name, linear in linears.items():
            hooks.callback(linear.register_forward_hook(observe(name)).remove)
        chance = torch.Generator(model.device).manual_seed(0)
        for index in range(len(text.ids)):
            ids, weights = sample(text, index)
            with torch.enable_grad():
                logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
            torch.autograd.backward(
                [logits], [sampled_label_slopes(logits.detach(), weights.to(logits.device), chance)]
            )
            progress(len(ids))
    costs: dict[str, np.ndarray] = {}
    for name, linear in linears.items():
        if seen := norms[name].tokens:
            scores = linear.weight.detach().float().square().mul_(norms[name].sum_squares.float())
            last = max(1, sparsity.removed(linear.in_features))
            costs[name] = (scores.kthvalue(last, dim=1).values.double().cpu() * slopes[name] / (2 * seen**2)).numpy()
    return costs


def kept_row_costs(
    dense: DenseModel, text: Samples, sparsity: RowSparsity, folder: Path, progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """`row_costs`, kept in a file of the folder for a run that goes on after an interruption."""
    file = folder / "costs.safetensors"
    if file.exists():
        progress(tokens_read(text))
    else:
        costs = row_costs(dense, text, sparsity, progress)
        partial = folder / "costs.partial"
        write_tensors(
            partial, {name: torch.from_numpy(cost) for name, cost in costs.items()}, {"order": json.dumps([*costs])}
        )
        partial.replace(file)
    with safe_open(file, framework="numpy") as kept:
        return {name: kept.get_tensor(name) for name in json.loads(kept.metadata()["order"])}


def tokens_read(text: Samples) -> int:
    """How many tokens of a text `row_costs` takes gradients of."""
    return sum(text.first(TOKENS).sizes)


def row_counts(costs: Sequence[np.ndarray], cols: Sequence[int], sparsity: float) -> list[np.ndarray]:
    """How many weights each row loses: fewer of the rows in which one more costs more.

    Args:
        costs: of each matrix, (rows,): what one more weight costs.
        cols: of each matrix.
        sparsity: of the whole.

    Returns:
        As `exact_counts`.
    """
    return exact_counts([ROW_SLOPE * level for level in levels(costs, cols)], cols, sparsity)


def levels(costs: Sequence[np.ndarray], cols: Sequence[int]) -> list[np.ndarray]:
    """The logarithms of what one more weight of each row costs, of each matrix (rows,), less their mean a weight."""
    each = np.concatenate(costs)
    level = np.log(np.maximum(each, each.max(initial=0) * 1e-12 or 1.0))
    level -= np.average(level, weights=_wide(costs, cols))
    return _apart(level, costs)


def exact_counts(more: Sequence[np.ndarray], cols: Sequence[int], sparsity: float) -> list[np.ndarray]:
    """How many weights each row loses that keeps so much more than the mean does.

    Args:
        more: of each matrix, (rows,), as a fraction of the row; all are moved by the same amount to fit.
        cols: of each matrix.
        sparsity: of the whole.

    Returns:
        int64 (rows,) of each matrix; together as many as int(cols * sparsity) of every row.
    """
    wide, each = _wide(more, cols), np.concatenate(more)
    total = int((wide * sparsity).astype(np.int64).sum())
    most = (wide * (1 - (1 - sparsity) * _LEAST_KEPT)).astype(np.int64)

    def removed(shift: float) -> np.ndarray:
        return np.clip((wide * (shift - each)).astype(np.int64), 0, most)

    low, high = _bracket(lambda shift: removed(shift).sum(), total, 10.0)
    counts, next_ = removed(low), np.flatnonzero(removed(high) > removed(low))
    counts[next_[: total - counts.sum()]] += 1
    return _apart(counts, more)


def _bracket(removed: Callable[[float], int], total: int, reach: float) -> tuple[float, float]:
    """A shift of all, at most `reach` either way, that removes too little or enough, and one next to it, too much."""
    low, high = -reach, reach
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if removed(middle) <= total else (low, middle)
    return low, high


def _wide(each: Sequence[np.ndarray], cols: Sequence[int]) -> np.ndarray:
    """The columns of each row of all matrices."""
    return np.concatenate([np.full(len(rows), width) for rows, width in zip(each, cols, strict=True)])


def _apart(rows: np.ndarray, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(other) for other in like])[:-1])


def _counts(
    dense: DenseModel, text: Samples, sparsity: RowSparsity, folder: Path, progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    costs = kept_row_costs(dense, text, sparsity, folder, progress)
    cols = [dense.model.get_parameter(name).shape[-1] for name in costs]
    return dict(zip(costs, row_counts(list(costs.values()), cols, sparsity.fraction), strict=True))


ROWS = Allocation("more is kept of rows whose outputs the model's loss feels more", _counts, tokens_read)
