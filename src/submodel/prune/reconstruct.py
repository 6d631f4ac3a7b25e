"""Reconstruct: after any mask, fit the kept weights to the dense output of their matrix by least squares.

For each row w with mask m the kept weights change by the d, 0 where dropped, that makes

    ||((1 - m) w - d) X||^2  +  ridge * sum_j d_j^2 G_jj        with G = X X^T

least: what the mask takes away is made up for on the calibration text, and every weight pays for leaving its value in
proportion to what it adds to the output, which keeps few calibration tokens from being learnt by heart. What is learnt
by heart grows with inputs / tokens, so the ridge is 3 times that: on nine matrices of a 135M model, fitted to 8k and to
32k tokens of Python, the least error on other Python lay near it (dev/LOG.md). The normal equations,

    m (G + ridge diag G) d = m G ((1 - m) w),

have another support in every row, so no factor can be shared; but conjugate gradients, preconditioned by the diagonal,
need one product of all rows with G a step. They lower the sum above from step to step, and it begins, at d = 0, with
the error of the mask alone: the error never ends above that.

Conjugate gradients on the support of a mask: ALPS, arXiv 2406.07831, section 3.3. That a simple mask with a fit
afterwards can beat better masks: arXiv 2510.14444, which fits attention and MLP as wholes where this fits each matrix.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from submodel.prune.method import Method
from submodel.prune.select import Pattern
from submodel.prune.statistics import Gram
from submodel.stream import Make, Pruned

_RIDGE = 3.0  # times inputs / tokens
_STEPS = 20
_NEAR = 1e-4  # a row is done when its residual has fallen to this part of the first


def refit(
    weight: torch.Tensor,
    keep: torch.Tensor,
    gram: torch.Tensor,
    *,
    ridge: float,
    steps: int = _STEPS,
    near: float = _NEAR,
) -> torch.Tensor:
    """Fit the kept weights of some rows.

    Args:
        weight: float (rows, cols), the dense weights.
        keep: bool (rows, cols), True = kept.
        gram: (cols, cols) of the inputs, in the dtype of `weight`.
        ridge: what a change costs, see above; 0 is plain least squares.
        steps: of conjugate gradients at most.
        near: the part of its first residual at which a row is done.

    Returns:
        New weights (rows, cols), 0 where dropped.
    """
    diagonal = (1 + ridge) * gram.diagonal()
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0)  # a feature that no token has keeps its weight
    change = torch.zeros_like(weight)
    residual = (weight.masked_fill(keep, 0) @ gram).masked_fill_(~keep, 0)
    scaled = residual * inverse
    direction = scaled.clone()
    size = (residual * scaled).sum(1)
    target = near**2 * size
    for _ in range(steps):
        if (size <= target).all():
            break
        image = torch.addcmul(direction @ gram, direction, gram.diagonal(), value=ridge).masked_fill_(~keep, 0)
        along = (direction * image).sum(1)
        length = torch.where((size > target) & (along > 0), size / along, 0)[:, None]
        change.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        scaled = residual * inverse
        before, size = size, (residual * scaled).sum(1)
        direction = scaled.addcmul_(torch.where(before > 0, size / before, 0)[:, None], direction)
    return (weight + change).masked_fill_(~keep, 0)


def fitter(weight: torch.Tensor, inputs: Gram) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`refit` for the rows of a weight (rows, cols), with the ridge that its inputs ask for: rows, mask -> new rows."""
    return partial(refit, gram=inputs.products.to(weight.device), ridge=ridge_of(weight, inputs))


def ridge_of(weight: torch.Tensor, inputs: Gram) -> float:
    """What a change of a weight (rows, cols) costs by itself, in parts of what it adds to the output."""
    return _RIDGE * weight.shape[1] / inputs.tokens


def gram_of(method: Method) -> Make:
    """The Gram matrix that stands in for a method's statistic: none, the squared norm or a Gram matrix."""
    return method.statistic if isinstance(method.statistic, type) and issubclass(method.statistic, Gram) else Gram


def reconstructed(method: Method) -> Method:
    """`method`, its kept weights fitted afterwards.

    A mask that gradients moved is fitted on a walk of its own; any other as soon as it is decided.
    """
    about = f"{method.about}; the kept weights fitted by least squares"
    if method.distilled:
        return replace(method, about=about, refitted=True)

    def prepare(weight: torch.Tensor, inputs: Gram) -> tuple[Any, Callable[..., torch.Tensor]]:
        return method.prepare(weight, inputs), fitter(weight, inputs)

    def decide(weight: torch.Tensor, prepared: tuple[Any, Callable[..., torch.Tensor]], pattern: Pattern) -> Pruned:
        own, fit = prepared
        keep = method.prune(weight, own, pattern).keep
        return Pruned(keep, fit(weight, keep))

    return Method(about, gram_of(method), decide, prepare, method.openings)
