"""Sub-models that share their base's weights: the text of each loaded by itself, in the memory of its masks."""

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits, popcount
from submodel.runtime import Loaded, Request, SharedBase, generate_batch, load
from submodel.runtime.packed import huge_pages
from submodel.runtime.packed.linear import packed_matrices
from submodel.runtime.packed.matrix import multiply, pack
from submodel.store import Mask, Store
from submodel.store.base import open_store_base
from tests import tiny
from tests.test_packed_models import RECIPE, store_of

NAMES = ("half", "third", "most")


def _store(folder: Path, family: str) -> tuple[Store, Base]:
    """A store with three random sub-models of one base."""
    store_of(folder, family)
    store = Store(folder / "store")
    base = open_store_base(store)
    rng = np.random.default_rng(1)
    for name, share in zip(NAMES[1:], (0.33, 0.9), strict=True):
        kept = {
            matrix: Mask(pack_bits(rng.random((*mask.packed.shape[:-1], mask.cols)) < share), mask.cols)
            for matrix, mask in store.masks("half").items()
        }
        store.add(name, kept, RECIPE)
    return store, base


def _greedy(loaded: Loaded, **options: Any) -> dict[str, tuple[int, ...]]:
    requests = [Request(str(i), tuple(tiny.ids(1, 3 + 4 * i, seed=i)[0].tolist()), 8) for i in range(3)]
    return {c.key: c.tokens for c in generate_batch(loaded, requests, lanes=1, slots=1, **options)}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "qwen3_moe"])
@pytest.mark.parametrize(("form", "own"), [("shared", "bf16"), ("shared-int8", "int8")])
def test_text_is_that_of_the_packed_model(family: str, form: str, own: str, tmp_path: Path):
    """Token for token, for a base and several of its sub-models together; and so is `load` with the same format."""
    store, base = _store(tmp_path, family)
    shared = SharedBase(base, form)
    together = {name: shared.submodel(store, name) for name in NAMES}
    for name, loaded in together.items():
        reference = f"{store.path}@{name}"
        assert (loaded.reference, loaded.name, loaded.weight_format) == (reference, name, form)
        packed = load(reference, weight_format=own)
        assert (loaded.engine is None) == (packed.engine is None)
        assert _greedy(loaded) == _greedy(packed)
        assert _greedy(load(reference, weight_format=form)) == _greedy(packed)
    assert _greedy(shared.dense) == _greedy(load(base.reference, weight_format=own))


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    for name, parts in packed_matrices(model):
        for i, packed in enumerate(parts):
            yield from ((f"{name}.{i}.{part}", tensor) for part, tensor in packed.tensors.items())


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3_moe"])
@pytest.mark.parametrize("form", ["shared", "shared-int8"])
def test_only_masks_are_their_own(family: str, form: str, tmp_path: Path):
    store, base = _store(tmp_path, family)
    shared = SharedBase(base, form)
    weights = {tensor.data_ptr() for _, tensor in _tensors(shared.dense.model)}
    for name in NAMES:
        own = [(at, t) for at, t in _tensors(shared.submodel(store, name).model) if t.data_ptr() not in weights]
        assert own and all(at.endswith(".mask") for at, _ in own)
        kept = store.masks(name)
        rows = sum(int(np.prod(mask.packed.shape[:-1])) * -(-mask.cols // 64) for mask in kept.values())
        assert sum(tensor.nbytes for _, tensor in own) == 8 * rows
    assert all("mask" not in at for at, _ in _tensors(shared.dense.model))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_memory_of_masks_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sub-model's masks lie in one mapping, which goes when the sub-model goes."""
    monkeypatch.setattr(huge_pages, "_LARGE", 1)
    store, base = _store(tmp_path, "llama")
    shared = SharedBase(base)
    loaded = shared.submodel(store, "half")
    found = {t.untyped_storage().data_ptr() for at, t in _tensors(loaded.model) if at.endswith(".mask")}
    assert len(found) == 1 and loaded.engine is not None
    [address] = found

    def mapped() -> bool:
        ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
        return any(int(low, 16) <= address < int(high, 16) for low, high in ranges)

    assert mapped()
    del loaded
    gc.collect()
    assert not mapped()


def _at_once(run: Callable[[int], None], count: int) -> None:
    """`run` of 0, 1, ... side by side, each in a thread that may set how many threads torch uses."""
    before = torch.get_num_threads()
    threads = [threading.Thread(target=run, args=[at]) for at in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)


def test_threads_run_several_at_once(tmp_path: Path):
    """Steps of different sub-models, and of the same one, beside each other: the text of each alone."""
    store, base = _store(tmp_path, "qwen2")
    shared = SharedBase(base)
    loaded = [shared.submodel(store, name) for name in (*NAMES, *NAMES)] + [shared.dense] * 2
    alone = [_greedy(one) for one in loaded]
    found: list[Any] = [None] * len(loaded)

    def run(at: int) -> None:
        torch.set_num_threads(2)  # each asks for the pool, which one at a time gets
        for _ in range(3):
            found[at] = _greedy(loaded[at])
            if found[at] != alone[at]:
                return

    _at_once(run, len(loaded))
    assert found == alone


def test_products_of_many_callers(kernels: str):
    """The pool's callers do not disturb each other."""
    weights = [torch.randn(300, 200, generator=torch.Generator().manual_seed(i)).to(torch.bfloat16) for i in range(6)]
    x = torch.randn(2, 200).to(torch.bfloat16)
    matrices = [pack(w, None, "dense-int8") for w in weights]
    expected = [multiply(matrix, x) for matrix in matrices]
    wrong: list[int] = []

    def run(at: int) -> None:
        torch.set_num_threads(3)
        wrong.extend(at for _ in range(100) if not torch.equal(multiply(matrices[at], x), expected[at]))

    _at_once(run, len(matrices))
    assert not wrong


def test_refusals(tmp_path: Path):
    (tmp_path / "other").mkdir()
    store, base = _store(tmp_path, "llama")
    shared = SharedBase(base)
    with pytest.raises(SubmodelError, match="unknown shared weight format 'int8': allowed are shared, shared-int8"):
        SharedBase(base, "int8")
    with pytest.raises(SubmodelError, match="unknown sub-model"):
        shared.submodel(store, "fifth")
    other, _ = _store(tmp_path / "other", "qwen2")
    with pytest.raises(SubmodelError, match="^[^\n]*of another base[^\n]*$"):
        shared.submodel(other, "half")
    fitted = {
        name: Mask(mask.packed, mask.cols, lambda packed=mask.packed: torch.ones(popcount(packed)))
        for name, mask in store.masks("half").items()
    }
    store.add("fitted", fitted, RECIPE)
    with pytest.raises(SubmodelError, match="^[^\n]*weights of its own[^\n]*packed[^\n]*$"):
        shared.submodel(store, "fitted")
