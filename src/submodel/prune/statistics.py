"""What pruning methods gather of the inputs of a matrix."""

import torch

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


class Gram:
    """The Gram matrix of the inputs: sum over tokens of x x^T; its diagonal is SquaredNorm's sum.

    Attributes:
        products: (cols, cols) float32.
        tokens: how many rows were seen.
    """

    def __init__(self, cols: int, device: torch.device):
        self.products = torch.zeros(cols, cols, dtype=torch.float32, device=device)
        self.tokens = 0

    @property
    def sum_squares(self) -> torch.Tensor:
        """(cols,) as SquaredNorm's, so that a Gram matrix serves wherever a squared norm does."""
        return self.products.diagonal()

    def update(self, inputs: torch.Tensor) -> None:
        """Take in (tokens, cols) of any float dtype."""
        values = inputs.float()
        self.products.addmm_(values.T, values)
        self.tokens += inputs.shape[0]

    def merge(self, other: "Gram") -> None:
        """Add what another one has seen."""
        self.products += other.products
        self.tokens += other.tokens
