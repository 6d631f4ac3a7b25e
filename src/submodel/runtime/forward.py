"""Running a model over tokens: a step of every row, a prompt (at once or piece by piece), what ends a text."""

import functools
import inspect
from collections.abc import Callable
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any

import torch

from submodel.runtime.cache import KeyValueCache, cache_for
from submodel.runtime.load import Loaded
from submodel.runtime.packed.head import DomainHead
from submodel.runtime.states import StateCache
from submodel.runtime.vocabulary import More, MoreTokens

SequenceCache = KeyValueCache | StateCache


def step(
    loaded: Loaded, cache: SequenceCache, last: list[int], *, alone: bool = False, more: More = ()
) -> torch.Tensor:
    """Logits (rows, vocabulary) that follow the last token of every row.

    With `alone`, and a native engine, they are bit for bit those that the row gets by itself. `more` are what each row
    may say beside the tokens of a vocabulary (see `TokenLimit`).
    """
    if isinstance(cache, StateCache):
        rows = [_of_state(loaded, cache, row, [token], m) for row, (token, m) in enumerate(zip_longest(last, more))]
        return torch.cat(rows)
    cache.prepare(1)
    device = loaded.model.device
    ids = torch.tensor(last, device=device)[:, None]
    positions = torch.tensor([[cache.end - start] for start in cache.starts], device=device)
    if loaded.engine and (alone or len(last) <= loaded.engine.most_rows):
        logits = loaded.engine.step(ids, positions, cache, alone=alone, more=more)
    else:
        logits = forward(loaded, ids, cache.mask(1).to(device), positions, cache, more)
    cache.advance(1)
    return logits


def prefill(
    loaded: Loaded, prompt: list[int], columns: int, more: MoreTokens | None = None
) -> tuple[SequenceCache, torch.Tensor]:
    """One prompt in a cache of its own with room for `columns` tokens, and its logits (1, vocabulary)."""
    cache = one_row(loaded, columns)
    return cache, extend(loaded, cache, prompt, more)


def one_row(loaded: Loaded, columns: int) -> SequenceCache:
    """An empty cache for one sequence of up to `columns` tokens; `extend` fills it."""
    cache = cache_for(loaded.model, 1, columns + 1)
    cache.open_row()
    return cache


def extend(loaded: Loaded, cache: SequenceCache, tokens: list[int], more: MoreTokens | None = None) -> torch.Tensor:
    """Logits (1, vocabulary) after further tokens of a cache's only row, which may say `more` as well."""
    if isinstance(cache, StateCache):
        return _of_state(loaded, cache, 0, tokens, more)
    device = loaded.model.device
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(cache.end, cache.end + len(tokens), device=device)[None]
    logits = forward(loaded, ids, cache.mask(len(tokens)).to(device), positions, cache, [more])
    cache.advance(len(tokens))
    return logits


def extend_scored(
    loaded: Loaded, cache: SequenceCache, tokens: list[int], more: MoreTokens | None = None
) -> torch.Tensor:
    """As `extend`, with the logits after each of the tokens: (tokens, vocabulary)."""
    if isinstance(cache, StateCache):
        return torch.cat([_of_state(loaded, cache, 0, [token], more) for token in tokens])
    device = loaded.model.device
    ids = torch.tensor([tokens], device=device)
    positions = torch.arange(cache.end, cache.end + len(tokens), device=device)[None]
    logits = _logits(loaded, ids, cache.mask(len(tokens)).to(device), positions, cache, [more], {})
    cache.advance(len(tokens))
    return logits[0]


def forward(
    loaded: Loaded, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache, more: More
) -> torch.Tensor:
    """Logits (rows, vocabulary) of each row's last token; of a vocabulary, -inf at what a row may not say."""
    options = {"logits_to_keep": 1} if _accepts(loaded.model, "logits_to_keep") else {}
    return _logits(loaded, ids, mask, positions, cache, more, options)[:, -1]


def _logits(
    loaded: Loaded,
    ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    cache: KeyValueCache,
    more: More,
    options: dict[str, Any],
) -> torch.Tensor:
    model: Any = loaded.model
    if _accepts(model, "position_ids"):
        options["position_ids"] = positions
    options["past_key_values"] = cache.past_key_values
    return _limited(loaded, more, lambda: model(input_ids=ids, attention_mask=mask, use_cache=True, **options).logits)


def _of_state(loaded: Loaded, cache: StateCache, row: int, tokens: list[int], more: MoreTokens | None) -> torch.Tensor:
    """Logits (1, vocabulary) after more tokens of one row."""
    return _limited(loaded, [more], lambda: cache.run(loaded.model, row, tokens))


def _limited(loaded: Loaded, more: More, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Logits of a model whose rows may say `more` beside its vocabulary."""
    if loaded.limit is None:
        return compute()
    head = loaded.model.get_output_embeddings()
    with head.beside(more) if isinstance(head, DomainHead) else nullcontext():
        return loaded.limit.apply(compute(), more)


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
