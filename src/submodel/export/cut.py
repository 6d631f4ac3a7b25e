"""Cut to size: which tensors of a model have a row for each token, and which rows stay."""

from dataclasses import dataclass
from pathlib import Path

import torch

from submodel.base.matrices import blocks_of
from submodel.base.models import Base
from submodel.base.tokenizer_model import TokenizerModel, tokenizer_model
from submodel.errors import SubmodelError
from submodel.export.cut_tokenizer import Ids, cut_side_files
from submodel.prune.vocabulary import Vocabulary
from submodel.prune.vocabulary.needed import head_rows


@dataclass(frozen=True)
class Cut:
    """How a base is cut to the tokens of a vocabulary.

    Attributes:
        rules: of the base's tokenizer.
        kept: the rows that stay, int64, ascending.
        ids: before and after; tokens that have no row in the base follow those that have, and have none after.
        tensors: the checkpoint's tensors whose first dimension is the tokens.
    """

    rules: TokenizerModel
    kept: torch.Tensor
    ids: Ids
    tensors: frozenset[str]

    def rows_of(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the checkpoint with the kept rows alone, if it has rows of tokens."""
        return tensor[self.kept] if name in self.tensors else tensor

    def side_files(self, folder: Path) -> None:
        """Cut the base's configurations and tokenizer that lie in a folder."""
        cut_side_files(folder, self.rules, self.ids)


def cut_of(base: Base, vocabulary: Vocabulary) -> Cut:
    """How to cut a base to a vocabulary.

    Raises SubmodelError for a tokenizer of a kind that is not understood, a vocabulary of another head, and a family
    that has further tensors with a row for each token.
    """
    rules = tokenizer_model(base.tokenizer, base.reference)
    if (rows := head_rows(base)) != vocabulary.rows:
        raise SubmodelError(f"{base.reference}: its head has {rows:,} rows, the vocabulary {vocabulary.rows:,}")
    kept = vocabulary.ids("cut")
    tokens = [token for token in kept.tolist() if token in rules.tokens]
    beyond = sorted(token for token in rules.tokens if token >= rows)
    ids = {old: new for new, old in enumerate([*tokens, *beyond])}
    return Cut(rules, torch.tensor(tokens), Ids(ids, len(tokens), rows, base.reference), _tensors(base, rows))


def _tensors(base: Base, rows: int) -> frozenset[str]:
    """The names in the checkpoint of embedding and head."""
    model = base.skeleton(base.dtype)
    modules = [model.get_input_embeddings(), model.get_output_embeddings()]
    owned = {id(parameter) for module in modules for parameter in module.parameters()}
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in owned}
    blocks, _ = blocks_of(model)
    for name, parameter in model.named_parameters():
        if rows in parameter.shape and name not in names and not name.startswith(f"{blocks}."):
            raise SubmodelError(
                f"{base.reference}: {name} has a row for each token beside embedding and head: give --vocab all"
            )
    return frozenset(stored for stored, target in base.targets(model).items() if target in names)
