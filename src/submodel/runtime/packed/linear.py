"""Packed matrices in a `transformers` model: a linear layer, the experts of a mixture, a tied embedding."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from submodel.runtime.packed.formats import FORMATS
from submodel.runtime.packed.head import DomainHead
from submodel.runtime.packed.matrix import PackedMatrix, look_up, multiply


class PackedLinear(nn.Module):
    """`nn.Linear` with a packed weight; computes in bfloat16 and answers in the input's dtype."""

    def __init__(self, packed: PackedMatrix, bias: torch.Tensor | None = None):
        super().__init__()
        self.packed = packed
        self.in_features, self.out_features = packed.cols, packed.rows
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(torch.bfloat16), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """Shape and dtype, for models that ask; no values are there, so that any other use of it fails."""
        return torch.empty(self.out_features, self.in_features, dtype=torch.bfloat16, device="meta")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return multiply(self.packed, x, self.bias).to(x.dtype)


class _ExpertWeight:
    """One expert's matrix: what `nn.functional.linear` is given as the weight."""

    def __init__(self, packed: PackedMatrix):
        self._packed = packed

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: tuple[Any, ...], options: Any = None) -> Any:
        if function is not nn.functional.linear:
            raise NotImplementedError(f"{function.__name__} of a packed expert")
        x, weight, *bias = arguments
        return multiply(weight._packed, x, *bias).to(x.dtype)


class PackedExperts(nn.Module):
    """A parameter (experts, rows, cols) whose slices are packed; indexing gives a slice to multiply with."""

    def __init__(self, packed: list[PackedMatrix]):
        super().__init__()
        self.packed = packed
        self.shape = torch.Size((len(packed), packed[0].rows, packed[0].cols))

    def __getitem__(self, expert: int | torch.Tensor) -> _ExpertWeight:
        return _ExpertWeight(self.packed[int(expert)])


class PackedEmbedding(nn.Module):
    """`nn.Embedding` over a dense matrix with scales; one tied to the output head takes no memory of its own."""

    def __init__(self, packed: PackedMatrix):
        super().__init__()
        form = FORMATS[packed.format]
        if form.masked or not form.scaled:
            raise ValueError(f"an embedding in {packed.format}: only a dense matrix with scales has rows to look up")
        self.packed = packed
        self.num_embeddings, self.embedding_dim = packed.rows, packed.cols

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return look_up(self.packed, ids.reshape(-1)).reshape(*ids.shape, self.packed.cols)


def keep_dtype(model: nn.Module) -> None:
    """Give a model whose every parameter is packed an empty one, since `transformers` reads dtype and device off it."""
    if not any(parameter.is_floating_point() for parameter in model.parameters()):
        model.register_parameter("empty", nn.Parameter(torch.empty(0, dtype=torch.bfloat16), requires_grad=False))


def packed_matrices(model: nn.Module) -> Iterator[tuple[str, list[PackedMatrix]]]:
    """Every packed parameter of a model, by name: one matrix, or one for each expert."""
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear | PackedEmbedding | DomainHead):
            yield f"{name}.weight", [module.packed]
        elif isinstance(module, PackedExperts):
            yield name, module.packed


def set_packed(model: nn.Module, parameter: str, packed: list[PackedMatrix]) -> None:
    """Put packed matrices where a parameter is, or other packed ones: a linear's weight, or the slices of a 3-D one."""
    path, _, attribute = parameter.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, nn.Embedding):
        model.set_submodule(path, PackedEmbedding(packed[0]))
    elif isinstance(module, nn.Linear | PackedLinear):
        model.set_submodule(path, PackedLinear(packed[0], module.bias))
    else:
        delattr(module, attribute)
        setattr(module, attribute, PackedExperts(packed))
