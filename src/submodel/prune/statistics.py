"""What pruning methods gather of the inputs of a matrix."""

from collections.abc import Iterator

import torch

from submodel.base import native

OPENINGS_SHARE = 0.1  # of the squared sum over text; no other value was tried (dev/LOG.md)
_CLIP = 4.0  # times the median norm
_PANEL = 192  # columns of a Gram matrix at once: fewer save more, down to where small products are slow (dev/LOG.md)
_SUMMING = ("avx512", "amx")  # what sums products of bfloat16 natively (see sm_gram)
_CHUNK_ROWS = 128  # the float32 copy of a chunk stays in the second-level cache


class SquaredNorm:
    """The squared L2 norm of every input feature: sum over tokens of x_j^2, in float32 or better.

    Attributes:
        sum_squares: (cols,) float32 partial sums added up in float64.
        tokens: how many rows were seen.
    """

    def __init__(self, cols: int, device: torch.device):
        self.sum_squares = torch.zeros(cols, dtype=torch.float64, device=device)
        self.tokens = 0

    def update(self, inputs: torch.Tensor) -> None:
        """Take in (tokens, cols) of any float dtype."""
        for chunk in inputs.split(_CHUNK_ROWS):
            self.sum_squares += chunk.to(torch.float32, copy=True).square_().sum(0)
        self.tokens += inputs.shape[0]

    def merge(self, other: "SquaredNorm") -> None:
        """Add what another one has seen."""
        self.sum_squares += other.sum_squares
        self.tokens += other.tokens

    def clear(self) -> None:
        """Forget all that was seen."""
        self.sum_squares.zero_()
        self.tokens = 0

    def add_openings(self, other: "SquaredNorm") -> None:
        """Let one-token samples have their share in the sum."""
        self.sum_squares += _scale(self, other) * other.sum_squares


class Gram:
    """The Gram matrix of the inputs: sum over tokens of x x^T; its diagonal is SquaredNorm's sum.

    Only blocks on and below the diagonal are summed, a little over half of the arithmetic; `products` mirrors them.

    Attributes:
        tokens: how many rows were seen.
    """

    def __init__(self, cols: int, device: torch.device):
        self._sums = torch.zeros(cols, cols, dtype=torch.float32, device=device)
        self._mirrored = True
        self.tokens = 0

    @property
    def products(self) -> torch.Tensor:
        """(cols, cols) float32, symmetric."""
        if not self._mirrored:
            for start, stop in self._panels():
                self._sums[:start, start:stop] = self._sums[start:stop, :start].T
            self._mirrored = True
        return self._sums

    @property
    def sum_squares(self) -> torch.Tensor:
        """(cols,) as SquaredNorm's, so that a Gram matrix serves wherever a squared norm does."""
        return self._sums.diagonal()

    def update(self, inputs: torch.Tensor) -> None:
        """Take in (tokens, cols) of any float dtype."""
        self._add(inputs)

    def _add(self, inputs: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        """Add the products of inputs (tokens, cols) times a scale (tokens, 1)."""
        self._mirrored = False
        self.tokens += inputs.shape[0]
        if inputs.device.type == "cpu" and inputs.dtype == torch.bfloat16 and native.instruction_set() in _SUMMING:
            scaled = torch.zeros(len(inputs), dtype=torch.bool) if scale is None else scale.squeeze(1) != 1
            self._add_natively(inputs.masked_fill(scaled[:, None], 0) if scaled.any() else inputs)
            inputs, scale = inputs[scaled], None if scale is None else scale[scaled]  # few: no bfloat16 any more
        if len(inputs):
            values = inputs.float() if scale is None else inputs.float() * scale
            for start, stop in self._panels():
                self._sums[start:stop, :stop].addmm_(values[:, start:stop].T, values[:, :stop])

    def _add_natively(self, inputs: torch.Tensor) -> None:
        """The same of bfloat16 inputs: exact products, summed in float32."""
        inputs = inputs.contiguous()
        pointers = inputs.data_ptr(), *inputs.shape, _PANEL, self._sums.data_ptr()
        native.library().sm_gram(*pointers, torch.get_num_threads())

    def _panels(self) -> Iterator[tuple[int, int]]:
        cols = len(self._sums)
        return ((start, min(start + _PANEL, cols)) for start in range(0, cols, _PANEL))

    def merge(self, other: "Gram") -> None:
        """Add what another one has seen."""
        self._sums += other._sums
        self._mirrored = False
        self.tokens += other.tokens

    def clear(self) -> None:
        """Forget all that was seen."""
        self._sums.zero_()
        self._mirrored = True
        self.tokens = 0

    def energy(self, rows: torch.Tensor) -> float:
        """||W X||_F^2 of some rows of a matrix, float32 (rows, cols): what is above the diagonal counts twice below."""
        sums, energy = self._sums.to(rows.device), 0.0
        for start, stop in self._panels():
            here = rows[:, start:stop]
            products = here @ sums[start:stop, start:stop]
            products.addmm_(rows[:, :start], sums[start:stop, :start].T, alpha=2)
            energy += float(products.mul_(here).sum(dtype=torch.float64))
        return energy

    def add_openings(self, other: "Gram") -> None:
        """Let one-token samples have their share in the sum."""
        self._sums.add_(other._sums, alpha=_scale(self, other))
        self._mirrored = False


class ClippedGram(Gram):
    """A Gram matrix in which no token counts for more than one of 4 times its batch's median norm.

    A few massive activations (arXiv 2402.17762) would else be all that the matrix of some inputs describes.
    """

    def update(self, inputs: torch.Tensor) -> None:
        """Take in one batch, (tokens, cols) of any float dtype."""
        self._add(inputs, clipping(inputs))


def clipping(inputs: torch.Tensor) -> torch.Tensor:
    """What to multiply each row (tokens, cols) of a batch by so that none has more than 4 times the median norm.

    Returns:
        float32 (tokens, 1), none above 1.
    """
    norms = torch.linalg.vector_norm(inputs, dim=1, keepdim=True, dtype=torch.float32)
    limit = _CLIP * norms.median()
    return torch.where(norms > limit, limit / norms, 1)


def _scale(text: SquaredNorm | Gram, openings: SquaredNorm | Gram) -> float:
    """What makes the sum over openings the agreed share of the sum over text."""
    total = float(openings.sum_squares.sum())
    return OPENINGS_SHARE * float(text.sum_squares.sum()) / total if total else 0.0
