"""A head of some of its base's rows: logits of its own, what a request may say beside, batches, shared weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from submodel.base.opening import open_base
from submodel.prune.vocabulary import Vocabulary
from submodel.runtime import Loaded
from submodel.runtime.batch import generate_batch
from submodel.runtime.continuation import Request
from submodel.runtime.forward import extend, one_row, prefill, step
from submodel.runtime.load import masked_model
from submodel.runtime.packed.formats import FORMATS
from submodel.runtime.packed.head import DomainHead, runs_of
from submodel.runtime.packed.model import load_packed, share_head
from submodel.runtime.vocabulary import TokenLimit
from tests import tiny

FAMILIES = (*tiny.FAMILIES, *tiny.MIXTURES)
PROMPT = tuple(tiny.ids(1, 12, seed=3)[0].tolist())


def packed(model: Path, form: str, tokens: torch.Tensor | None) -> Loaded:
    base = open_base(str(model))
    return with_limit(base, load_packed(base, {}, form, tokens), form, tokens)


def with_limit(base: Any, model: Any, form: str | None, tokens: torch.Tensor | None) -> Loaded:
    rows = model.get_output_embeddings().out_features
    vocabulary = None if tokens is None else Vocabulary.of(rows, tokens.numpy(), tokens.numpy())
    return Loaded(base.reference, base, model, None, form, vocabulary)


def shared(model: Path, form: str, tokens: torch.Tensor) -> Loaded:
    base = open_base(str(model))
    dense = load_packed(base, {}, FORMATS[form].rest)
    share_head(dense, tokens)
    return with_limit(base, dense, FORMATS[form].rest, tokens)


def kept_by(vocabulary: int, every: int = 3) -> torch.Tensor:
    """Single rows and runs."""
    return torch.tensor([i for i in range(vocabulary) if i % every == 0 or 20 <= i < 60])


def logits_of(loaded: Loaded, prompt: tuple[int, ...] = PROMPT, *, alone: bool = False) -> torch.Tensor:
    """After the prompt, and after three steps more: float (4, vocabulary)."""
    more = loaded.limit.used_by(prompt) if loaded.limit else None
    with torch.inference_mode():
        cache, first = prefill(loaded, list(prompt), len(prompt) + 4, more)
        result = [first[0].float()]
        for token in (5, 6, 7):
            result.append(step(loaded, cache, [token], alone=alone, more=[more])[0].float())
    return torch.stack(result)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4", "dense", "dense-int8", "shared", "shared-int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_rows_are_those_of_the_complete_head_bit_for_bit(family: str, form: str, tmp_path: Path):
    directory = tiny.save(family, tmp_path / family)
    full = logits_of(packed(directory, form, None))
    tokens = kept_by(full.shape[1])
    loaded = shared(directory, form, tokens) if FORMATS[form].is_shared else packed(directory, form, tokens)
    limited = logits_of(loaded)
    assert limited.shape == full.shape
    said = torch.zeros(full.shape[1], dtype=torch.bool)
    said[tokens] = True
    said[list(PROMPT)] = True
    assert torch.equal(limited[:, said], full[:, said]), "the tokens kept, and those of the prompt"
    assert bool((limited[:, ~said] == float("-inf")).all())


def test_unpacked_models_are_kept_to_their_tokens(llama: Path):
    base = open_base(str(llama))
    model = masked_model(base, {})
    full = logits_of(with_limit(base, model, None, None))
    tokens = kept_by(full.shape[1])
    limited = logits_of(with_limit(base, model, None, tokens))
    finite = limited[0] > float("-inf")
    assert finite.nonzero()[:, 0].tolist() == sorted({*tokens.tolist(), *PROMPT})
    assert torch.equal(limited[:, finite], full[:, finite])


def test_the_complete_head_and_embedding_are_not_in_memory(llama: Path):
    few = packed(llama, "dense", torch.arange(16))
    assert isinstance(few.model.get_output_embeddings(), DomainHead)
    head: Any = few.model.get_output_embeddings()
    assert head.packed.rows == 16 and head.packed.size_bytes == 16 * head.in_features * 2
    names = [name for name, _ in few.model.named_parameters()]
    assert not any("embed" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("form", ["int8", "shared"])
def test_a_batch_gives_each_request_its_own_tokens(form: str, llama: Path):
    tokens = torch.arange(0, 256, 2)
    loaded = shared(llama, form, tokens) if form == "shared" else packed(llama, form, tokens)
    prompts = [tuple(tiny.ids(1, n, seed=n)[0].tolist()) for n in (3, 7, 7, 11, 18)]
    requests = [Request(str(i), prompt, 6) for i, prompt in enumerate(prompts)]
    together = {c.key: c for c in generate_batch(loaded, requests, slots=3, lanes=2)}
    for request in requests:
        [by_itself] = generate_batch(loaded, [request])
        assert together[request.key].tokens == by_itself.tokens
        assert set(by_itself.tokens) <= {*tokens.tolist(), *request.prompt}


def test_a_row_of_a_batch_gets_what_it_gets_by_itself(llama: Path):
    loaded = packed(llama, "int8", torch.arange(0, 256, 5))
    if loaded.engine is None:
        pytest.skip("no native kernels")
    assert loaded.limit
    prompts = [tuple(tiny.ids(1, 9, seed=seed)[0].tolist()) for seed in range(12)]
    more = [loaded.limit.used_by(prompt) for prompt in prompts]
    with torch.inference_mode():
        cache = one_row(loaded, 12)
        caches = [prefill(loaded, list(prompt), 12)[0] for prompt in prompts]
        alone = [step(loaded, copy.deepcopy(c), [1], alone=True, more=[m]) for c, m in zip(caches, more, strict=True)]
        from submodel.runtime.cache import cache_for

        joined = cache_for(loaded.model, 12, 12)
        for one in caches:
            joined.add(one, 0)
        together = step(loaded, joined, [1] * 12, alone=True, more=more)
    assert torch.equal(together, torch.cat(alone))
    del cache


def test_a_prompt_of_every_token(llama: Path):
    loaded = packed(llama, "int8", torch.arange(4))
    prompt = tuple(range(256)) * 2
    with torch.inference_mode():
        more = loaded.limit.used_by(prompt) if loaded.limit else None
        assert more and more.ids.tolist() == list(range(4, 256))
        cache = one_row(loaded, 600)
        assert bool((extend(loaded, cache, list(prompt), more) > float("-inf"))[:, :256].all())


def test_a_prompt_within_the_vocabulary_needs_nothing_more():
    limit = TokenLimit(torch.tensor([1, 2, 3]), 8)
    assert limit.used_by((1, 2, 2)) is None and limit.used_by((1, 99)) is None
    more = limit.used_by((1, 7, 7, 5))
    assert more and more.ids.tolist() == [5, 7] and more.rows is None
    row = limit.apply(torch.arange(8.0)[None], [more])[0]
    assert [i for i in range(8) if row[i] > float("-inf")] == [1, 2, 3, 5, 7]


@pytest.mark.parametrize("ids", [[0], [5], [0, 1, 2], [0, 2, 4], [*range(700)], [*range(100, 400), 500, 501, 900]])
def test_runs(ids: list[int]):
    runs = runs_of(torch.tensor(ids)).tolist()
    assert [i for first, last, _ in runs for i in range(first, last)] == ids
    assert [place for _, _, place in runs] == [ids.index(first) for first, _, _ in runs]
    assert all(last - first <= 256 for first, last, _ in runs)
