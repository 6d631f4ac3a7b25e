"""What can be pruned in a model: its decoder blocks, and the matrices of each.

A family needs no line here as long as its blocks compute with `nn.Linear`, or with one 3-D parameter for all experts
of a mixture.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.errors import SubmodelError

_ROUTER = re.compile(r"Router|TopKGat")  # in the name of a module's class
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_USED_AS_TENSORS = (".dt_proj",)  # of state-space layers, which multiply with the weight itself


@dataclass(frozen=True)
class Matrix:
    """One prunable parameter of a block: a linear's weight (rows, cols), or (experts, rows, cols).

    Attributes:
        name: the parameter's full name in the model.
        module: the module that owns it.
        attribute: the parameter's name in that module.
    """

    name: str
    module: nn.Module
    attribute: str

    @property
    def weight(self) -> torch.Tensor:
        """The parameter itself."""
        return getattr(self.module, self.attribute)


def blocks_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder blocks and their name: the outermost list of `num_hidden_layers` modules that hold matrices.

    Raises SubmodelError if there is none.
    """
    config = model.config.get_text_config(decoder=True)
    counts = {config.num_hidden_layers, getattr(config, "num_layers", None)}  # some count half blocks in the first
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) in counts and matrices_of(module[0], ""):
            return name, module
    raise SubmodelError(
        f"{type(model).__name__} has no list of {config.num_hidden_layers} decoder blocks with linear layers to prune"
    )


def matrices_of(block: nn.Module, prefix: str) -> list[Matrix]:
    """Every prunable parameter of a block, in the order of the block's modules.

    What decides which expert of a mixture a token goes to is none: it is tiny, and a wrong choice costs a whole expert.

    Args:
        block: a decoder block.
        prefix: its name in the model, such as `model.layers.0`.
    """
    matrices: list[Matrix] = []
    experts = _expert_counts(block)
    routers: list[str] = []
    for path, module in block.named_modules(prefix=prefix):
        if _ROUTER.search(type(module).__name__) or "router" in path.removeprefix(prefix):
            routers.append(f"{path}.")
        if f"{path}.".startswith(tuple(routers)):
            continue
        if isinstance(module, nn.Linear):
            if path.endswith(_USED_AS_TENSORS) or (experts and module.out_features in {1, *experts}):
                continue
            matrices.append(Matrix(f"{path}.weight", module, "weight"))
        else:
            matrices += [
                Matrix(f"{path}.{attribute}", module, attribute)
                for attribute, parameter in module.named_parameters(recurse=False)
                if parameter.dim() == 3 and hasattr(module, "num_experts")
            ]
    return matrices


def _expert_counts(block: nn.Module) -> set[int]:
    """How many experts the mixtures of a block choose from; none for a block without a mixture."""
    counts = (getattr(module, name, None) for module in block.modules() for name in _EXPERTS)
    return {count for count in counts if isinstance(count, int) and count > 1}


def all_matrices(model: PreTrainedModel) -> list[Matrix]:
    """Every prunable parameter of a model, block by block, under its name in the model."""
    path, blocks = blocks_of(model)
    return [matrix for index, block in enumerate(blocks) for matrix in matrices_of(block, f"{path}.{index}")]


def split_name(name: str) -> tuple[int, str]:
    """`model.layers.3.mlp.down_proj.weight` -> (3, "mlp.down_proj")."""
    match = re.search(r"\.(\d+)\.(.+?)(\.weight)?$", name)
    return (int(match[1]), match[2]) if match else (0, name)
