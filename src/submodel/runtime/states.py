"""Sequences of a family that keeps something else than keys and values a token, or nothing: each row by itself.

State-space layers, convolutions and indexed or compressed attention keep states that rows have no columns in common of.
So each row has the cache that `transformers` makes for the family, and takes its steps alone; of a family without any
cache every step runs all tokens again.
"""

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import PreTrainedModel


@dataclass
class _Row:
    """A sequence: its tokens, and what `transformers` hands from one step to the next."""

    tokens: list[int] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)


class StateCache:
    """Room for `rows` sequences of up to `columns` tokens; in place of a `KeyValueCache`, with its methods."""

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns
        self._sequences: list[_Row] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def length(self, row: int) -> int:
        """Tokens of a row so far."""
        return len(self._sequences[row].tokens)

    @property
    def end(self) -> int:
        """Tokens of the longest row."""
        return max((len(row.tokens) for row in self._sequences), default=0)

    def open_row(self) -> None:
        """Begin an empty row."""
        self._sequences.append(_Row())

    def add(self, source: Any, row: int) -> None:
        """Copy one row of another cache of this kind (such as a prefill) in as the last row."""
        self._sequences.append(copy.deepcopy(source._sequences[row]))

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        self._sequences[row] = self._sequences[-1]
        self._sequences.pop()

    def run(self, model: Any, row: int, tokens: list[int]) -> torch.Tensor:
        """Logits (1, vocabulary) after more tokens of a row: a prompt as a whole, or one."""
        sequence = self._sequences[row]
        first = not sequence.tokens
        sequence.tokens += tokens
        ids = torch.tensor([sequence.tokens], device=model.device)
        if not has_cache(model):
            return model(input_ids=ids, use_cache=False).logits[:, -1]
        if first:
            sequence.inputs = _first_inputs(model, ids)
        inputs = model.prepare_inputs_for_generation(
            ids, next_sequence_length=len(tokens), is_first_iteration=first, **sequence.inputs
        )
        output = model(**inputs, return_dict=True)
        sequence.inputs = model._update_model_kwargs_for_generation(output, sequence.inputs)
        return output.logits[:, -1]


def _first_inputs(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """What generation with `transformers` begins with."""
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": True}
    if "position_ids" in parameters and not numbers_positions(model):
        inputs["position_ids"] = torch.arange(ids.shape[1], device=ids.device)[None]
    if "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = 1
    if model._supports_default_dynamic_cache():
        name = "cache_params" if "cache_params" in parameters else "past_key_values"
        inputs[name] = DynamicCache(config=model.config.get_text_config(decoder=True))
    return inputs


def numbers_positions(model: Any) -> bool:
    """Whether a family numbers positions itself, so that rows that begin in different columns cannot share a step.

    Some number from the padding token on; some take position ids inside, and do not say so outside.
    """
    if any(hasattr(module, "create_position_ids_from_input_ids") for module in model.modules()):
        return True
    parts = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    takes = ["position_ids" in inspect.signature(part.forward).parameters for part in parts]
    return any(takes) and not takes[0]


def has_cache(model: Any) -> bool:
    """Whether a family has a cache that sequences can have each their own of."""
    if any(hasattr(module, "_setup_cache") for module in model.modules()):
        return False  # RecurrentGemma's layers themselves hold the state of what they ran last
    parameters = inspect.signature(model.forward).parameters
    return any(name in parameters for name in ("past_key_values", "cache_params", "state"))
