"""Running a model over tokens: a step of every live row, a prompt (whole or piece by piece), what ends a text."""

import functools
import inspect
from typing import Any

import torch

from submodel.runtime.load import Loaded
from submodel.runtime.slots import Slots


def step(loaded: Loaded, slots: Slots, last: list[int], *, alone: bool = False) -> torch.Tensor:
    """Logits (rows, vocabulary) that follow the last token of every live row.

    With `alone`, and a native engine, they are bit for bit those that the row gets by itself.
    """
    slots.prepare(1)
    device = loaded.model.device
    ids = torch.tensor(last, device=device)[:, None]
    positions = torch.tensor([[slots.end - start] for start in slots.starts], device=device)
    if loaded.engine and (alone or len(last) <= loaded.engine.most_rows):
        logits = loaded.engine.step(ids, positions, slots, alone=alone)
    else:
        logits = forward(loaded.model, ids, slots.mask(1).to(device), positions, slots)
    slots.advance(1)
    return logits


def prefill(loaded: Loaded, prompt: list[int], columns: int) -> tuple[Slots, torch.Tensor]:
    """One prompt in a cache of its own with room for `columns` tokens, and its logits (1, vocabulary)."""
    slots = one_row(loaded, columns)
    return slots, extend(loaded, slots, prompt)


def one_row(loaded: Loaded, columns: int) -> Slots:
    """An empty cache for one sequence of up to `columns` tokens; `extend` fills it."""
    slots = Slots(layers_of(loaded.model), 1, columns + 1)
    slots.starts = [0]
    return slots


def extend(loaded: Loaded, slots: Slots, tokens: list[int]) -> torch.Tensor:
    """Logits (1, vocabulary) after more tokens of a cache's only row."""
    device = loaded.model.device
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(slots.end, slots.end + len(tokens), device=device)[None]
    logits = forward(loaded.model, ids, slots.mask(len(tokens)).to(device), positions, slots)
    slots.advance(len(tokens))
    return logits


def forward(model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Logits (rows, vocabulary) of each row's last token."""
    options: dict[str, Any] = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}
    if _accepts(model, "position_ids"):
        options["position_ids"] = positions
    return model(input_ids=ids, attention_mask=mask, past_key_values=slots.cache, use_cache=True, **options).logits[
        :, -1
    ]


def end_tokens(loaded: Loaded) -> frozenset[int]:
    """Token ids that end a text, by the model's generation settings and by its tokenizer."""
    ends: set[int] = set()
    for given in (loaded.model.generation_config, loaded.model.config, loaded.tokenizer):
        found: Any = getattr(given, "eos_token_id", None)
        ends |= set(found) if isinstance(found, list) else set() if found is None else {found}
    return frozenset(ends)


def token_bytes(model: Any) -> int:
    """Keys and values of one token, in bytes."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


def layers_of(model: Any) -> int:
    """How many layers keep keys and values."""
    return model.config.get_text_config().num_hidden_layers


def _accepts(model: Any, name: str) -> bool:
    return name in _parameters(type(model))


@functools.cache
def _parameters(kind: type) -> frozenset[str]:
    """Asked for at every step, so looked up once a class."""
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
