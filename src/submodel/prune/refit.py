"""Refit: after any mask, fit the kept weights by least squares, so that the model comes back to the dense one.

For each row w with mask m the kept weights change by the d, 0 where dropped, that makes

    sum over tokens of (t - (m w + d) x)^2  +  ridge * sum_j d_j^2 G_jj        with G = sum x x^T

least, x being the row's input in the sub-model and t what it is to put out: w x' with the input x' of the dense model
and, where the matrix adds its output to the residual stream, what the stream lacks there (`dense_target`). So a matrix
makes up for its own mask and for what those before it have lost. Every weight pays for leaving its value in proportion
to what it adds to the output, which keeps few calibration tokens from being learnt by heart. What is learnt by heart
grows with inputs / tokens, so the ridge is 3 times that: on nine matrices of a 135M model, fitted to 8k and to 32k
tokens of Python, the least error on other Python lay near it (dev/LOG.md). The normal equations,

    m (G + ridge diag G) d = m (sum (t - m w x) x^T) = m (G ((1 - m) w) + sum (t - w x) x^T),

have another support in every row, so no factor can be shared; but conjugate gradients, preconditioned by the diagonal,
need one product of all rows with G a step. They lower the sum above from step to step, and it begins, at d = 0, with
the error of the mask alone: what the matrix puts out is never farther from t than that.

Conjugate gradients on the support of a mask: ALPS, arXiv 2406.07831, section 3.3. That a simple mask with a fit
afterwards can beat better masks: arXiv 2510.14444, which fits attention and MLP as wholes where this fits each matrix.
"""

from collections.abc import Callable

import torch

from submodel.base.arithmetic import multiplies
from submodel.prune.statistics import Gram

_RIDGE = 3.0  # times inputs / tokens
_STEPS = 20
_NEAR = 0.01  # a row is done when its residual has fallen to this part of the first; 0.1% of the gain is left


def refit(
    weight: torch.Tensor,
    keep: torch.Tensor,
    gram: torch.Tensor,
    *,
    ridge: float,
    gap: torch.Tensor | None = None,
    rough: torch.Tensor | None = None,
    steps: int = _STEPS,
    near: float = _NEAR,
) -> torch.Tensor:
    """Fit the kept weights of some rows.

    Args:
        weight: float (rows, cols), the dense weights.
        keep: bool (rows, cols), True = kept.
        gram: (cols, cols) of the inputs, in the dtype of `weight`.
        ridge: what a change costs, see above; 0 is plain least squares.
        gap: (rows, cols), sum over tokens of (t - W x) x^T, t being the target; None where t is W x.
        rough: `gram` in fewer bits, for all products but the first.
        steps: of conjugate gradients at most.
        near: the part of its first residual at which a row is done.

    Returns:
        New weights (rows, cols), 0 where dropped.
    """
    diagonal, dropped = gram.diagonal().contiguous(), ~keep  # read in place a diagonal costs as much as a product
    inverse = torch.where(diagonal > 0, 1 / ((1 + ridge) * diagonal), 0)  # a feature that no token has keeps its weight
    change = torch.zeros_like(weight)
    residual = weight.masked_fill(keep, 0) @ gram
    if gap is not None:
        residual += gap
    residual.masked_fill_(dropped, 0)
    scaled = residual * inverse
    direction = scaled.clone()
    size = (residual * scaled).sum(1)
    target = near**2 * size
    for _ in range(steps):
        if (size <= target).all():
            break
        image = direction @ gram if rough is None else (direction.to(rough.dtype) @ rough).to(direction.dtype)
        image.addcmul_(direction, diagonal, value=ridge).masked_fill_(dropped, 0)
        along = (direction * image).sum(1)
        length = torch.where((size > target) & (along > 0), size / along, 0)[:, None]
        change.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        scaled = residual * inverse
        before, size = size, (residual * scaled).sum(1)
        direction = scaled.addcmul_(torch.where(before > 0, size / before, 0)[:, None], direction)
    return (weight + change).masked_fill_(dropped, 0)


def fitter(
    weight: torch.Tensor, inputs: Gram
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """`refit` for some rows of a weight (rows, cols), with the ridge that its inputs ask for.

    Returns:
        Rows, their mask, their gap (`dense_target.gap_of_rows`) -> new rows.

    Of a model in bfloat16 products are in it too, where the processor has them: the sum ends within 0.01% of its fall.
    """
    gram, ridge = inputs.products.to(weight.device), ridge_of(weight, inputs)
    rough = gram.bfloat16() if weight.dtype == torch.bfloat16 and multiplies(torch.bfloat16) else None
    return lambda rows, keep, gap: refit(rows, keep, gram, ridge=ridge, gap=gap, rough=rough)


def ridge_of(weight: torch.Tensor, inputs: Gram) -> float:
    """What a change of a weight (rows, cols) costs by itself, in parts of what it adds to the output."""
    return _RIDGE * weight.shape[1] / inputs.tokens
