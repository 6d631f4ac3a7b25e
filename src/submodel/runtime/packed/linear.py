"""Packed matrices in a `transformers` model: a linear layer, the experts of a mixture, a tied embedding."""

from typing import Any

import torch
from torch import nn

from submodel.runtime.packed.formats import Packed, multiply


class PackedLinear(nn.Module):
    """`nn.Linear` with a packed weight; computes in bfloat16 and answers in the input's dtype."""

    def __init__(self, packed: Packed, bias: torch.Tensor | None = None):
        super().__init__()
        self.packed = packed
        self.in_features, self.out_features = packed.cols, packed.rows
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return multiply(self.packed, x, self.bias).to(x.dtype)


class _ExpertWeight:
    """One expert's matrix: what `nn.functional.linear` is given as the weight."""

    def __init__(self, packed: Packed):
        self._packed = packed

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: tuple[Any, ...], options: Any = None) -> Any:
        if function is not nn.functional.linear:
            raise NotImplementedError(f"{function.__name__} of a packed expert")
        x, weight, *bias = arguments
        return multiply(weight._packed, x, *bias).to(x.dtype)


class PackedExperts(nn.Module):
    """A parameter (experts, rows, cols) whose slices are packed; indexing gives a slice to multiply with."""

    def __init__(self, packed: list[Packed]):
        super().__init__()
        self.packed = packed
        self.shape = torch.Size((len(packed), packed[0].rows, packed[0].cols))

    def __getitem__(self, expert: int | torch.Tensor) -> _ExpertWeight:
        return _ExpertWeight(self.packed[int(expert)])


class PackedEmbedding(nn.Module):
    """`nn.Embedding` over an 8-bit matrix; one tied to the output head takes no memory of its own."""

    def __init__(self, packed: Packed):
        super().__init__()
        if packed.format != "dense-int8":
            raise ValueError(f"an embedding in {packed.format}: only dense-int8 has rows to look up")
        self.packed = packed
        self.num_embeddings, self.embedding_dim = packed.rows, packed.cols

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        packed, flat = self.packed, ids.reshape(-1)
        assert packed.scales is not None
        steps = packed.values.view(packed.rows, -1, 64)[flat].float() - 128
        rows = steps * packed.scales[flat].float()[..., None]
        return rows.view(len(flat), -1)[:, : packed.cols].to(torch.bfloat16).view(*ids.shape, packed.cols)
