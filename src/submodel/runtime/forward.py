"""Running a model over tokens: a step of every row, a prompt (at once or piece by piece), what ends a text."""

import functools
import inspect
from typing import Any

import torch

from submodel.runtime.cache import KeyValueCache, cache_for
from submodel.runtime.load import Loaded
from submodel.runtime.states import StateCache

SequenceCache = KeyValueCache | StateCache


def step(loaded: Loaded, cache: SequenceCache, last: list[int], *, alone: bool = False) -> torch.Tensor:
    """Logits (rows, vocabulary) that follow the last token of every row.

    With `alone`, and a native engine, they are bit for bit those that the row gets by itself.
    """
    if isinstance(cache, StateCache):
        return torch.cat([cache.run(loaded.model, row, [token]) for row, token in enumerate(last)])
    cache.prepare(1)
    device = loaded.model.device
    ids = torch.tensor(last, device=device)[:, None]
    positions = torch.tensor([[cache.end - start] for start in cache.starts], device=device)
    if loaded.engine and (alone or len(last) <= loaded.engine.most_rows):
        logits = loaded.engine.step(ids, positions, cache, alone=alone)
    else:
        logits = forward(loaded.model, ids, cache.mask(1).to(device), positions, cache)
    cache.advance(1)
    return logits


def prefill(loaded: Loaded, prompt: list[int], columns: int) -> tuple[SequenceCache, torch.Tensor]:
    """One prompt in a cache of its own with room for `columns` tokens, and its logits (1, vocabulary)."""
    cache = one_row(loaded, columns)
    return cache, extend(loaded, cache, prompt)


def one_row(loaded: Loaded, columns: int) -> SequenceCache:
    """An empty cache for one sequence of up to `columns` tokens; `extend` fills it."""
    cache = cache_for(loaded.model, 1, columns + 1)
    cache.open_row()
    return cache


def extend(loaded: Loaded, cache: SequenceCache, tokens: list[int]) -> torch.Tensor:
    """Logits (1, vocabulary) after more tokens of a cache's only row."""
    if isinstance(cache, StateCache):
        return cache.run(loaded.model, 0, tokens)
    device = loaded.model.device
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(cache.end, cache.end + len(tokens), device=device)[None]
    logits = forward(loaded.model, ids, cache.mask(len(tokens)).to(device), positions, cache)
    cache.advance(len(tokens))
    return logits


def forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache
) -> torch.Tensor:
    """Logits (rows, vocabulary) of each row's last token."""
    options: dict[str, Any] = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}
    if _accepts(model, "position_ids"):
        options["position_ids"] = positions
    options["past_key_values"] = cache.past_key_values
    return model(input_ids=ids, attention_mask=mask, use_cache=True, **options).logits[:, -1]


def end_tokens(loaded: Loaded) -> frozenset[int]:
    """Token ids that end a text, by the model's generation settings and by its tokenizer."""
    ends: set[int] = set()
    for source in (loaded.model.generation_config, loaded.model.config, loaded.tokenizer):
        ids: Any = getattr(source, "eos_token_id", None)
        ends |= set(ids) if isinstance(ids, list) else set() if ids is None else {ids}
    return frozenset(ends)


def _accepts(model: Any, name: str) -> bool:
    return name in _parameters(type(model))


@functools.cache
def _parameters(kind: type) -> frozenset[str]:
    """Needed at every step, so looked up once a class."""
    return frozenset(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
