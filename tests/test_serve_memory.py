"""Models in memory: loaded when asked for, evicted by least recent use, waited for in line."""

import asyncio
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from openai import OpenAI
from transformers import AutoConfig, AutoModelForCausalLM

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits
from submodel.runtime import Loaded
from submodel.runtime.packed.formats import FORMATS, SHARED
from submodel.runtime.packed.linear import packed_matrices
from submodel.serve.access import Limits
from submodel.serve.model_pool import ModelPool
from submodel.serve.refusal import Refusal
from submodel.serve.registry import PackedRegistry, open_registry
from submodel.store import Mask, open_or_create
from tests import serving, tiny
from tests.test_packed_models import RECIPE

CACHE = 1 << 20


class Slow(PackedRegistry):
    """Takes its time to load, can be told to fail, and notes what it loads."""

    def __init__(self, store: Path, seconds: float = 0.0):
        super().__init__(store, "bf16")
        self.seconds, self.broken, self.loaded = seconds, False, []

    def load(self, name: str) -> Loaded:
        time.sleep(self.seconds)
        if self.broken:
            raise SubmodelError("damaged")
        self.loaded.append(name)
        return super().load(name)


def _room_for(registry: PackedRegistry, models: int) -> int:
    return models * (max(registry.size_bytes(name) for name in registry.names) + CACHE)


@pytest.fixture
def registry(store: Path) -> Slow:
    return Slow(store)


@pytest.mark.parametrize("form", list(FORMATS))
def test_sizes_are_told_before_loading(store: Path, form: str):
    registry = PackedRegistry(store, form)
    for name in ("base", "python"):
        model = registry.load(name).model
        tensors = [tensor for _, parts in packed_matrices(model) for part in parts for tensor in part.tensors.values()]
        size = sum({tensor.data_ptr(): tensor.nbytes for tensor in [*tensors, *model.parameters()]}.values())
        assert abs(registry.size_bytes(name) - size) < 0.5 * size, (form, name, size)  # padding weighs much here
        gone = weakref.ref(model)
        del model, tensors
        assert gone() is None  # at once: no garbage has to be collected


def test_the_least_recently_used_one_goes(registry: Slow):
    async def run() -> None:
        models = ModelPool(registry, _room_for(registry, 2), CACHE)
        for name in ("java", "python", "java", "maths"):
            models.release(await models.lease(name))
        assert set(models.resident) == {"java", "maths"} and models.evictions == 1
        assert sum(models.resident.values()) <= _room_for(registry, 2)
        await models.close()
        assert not any(thread.name.startswith("model ") for thread in threading.enumerate())

    asyncio.run(run())
    assert registry.loaded == ["java", "python", "maths"]


def test_many_who_ask_at_once_load_once(registry: Slow):
    registry.seconds = 0.1

    async def run() -> None:
        models = ModelPool(registry, _room_for(registry, 4), CACHE)
        leases = await asyncio.gather(*(models.lease(name) for name in ["java", "maths"] * 8))
        assert len({id(lease.model) for lease in leases}) == 2
        for lease in leases:
            models.release(lease)
        await models.close()

    asyncio.run(run())
    assert sorted(registry.loaded) == ["java", "maths"]


def test_a_busy_model_is_never_taken_away(registry: Slow):
    async def run() -> None:
        models = ModelPool(registry, _room_for(registry, 1), CACHE, wait_s=0.2)
        lease = await models.lease("java")
        with pytest.raises(Refusal, match="the others are busy") as refused:
            await models.lease("maths")
        assert refused.value.status == 503 and refused.value.headers["Retry-After"]
        models._wait_s = 60.0
        waiting = asyncio.create_task(models.lease("maths"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(models.lease("java"))  # stands in line behind the one who waits for memory
        await asyncio.sleep(0.05)
        assert not waiting.done() and not late.done()
        models.release(lease)
        models.release(await waiting)
        assert (await late).name == "java"
        await models.close()

    asyncio.run(run())
    assert registry.loaded == ["java", "maths", "java"]


def test_who_stops_waiting_leaves_nothing_behind(registry: Slow):
    registry.seconds = 0.2

    async def run() -> None:
        models = ModelPool(registry, _room_for(registry, 1), CACHE)
        first = asyncio.create_task(models.lease("java"))
        await asyncio.sleep(0.05)
        first.cancel()  # while it loads
        second = asyncio.create_task(models.lease("maths"))
        await asyncio.sleep(0.05)
        second.cancel()  # while it waits for memory
        lease = await asyncio.wait_for(models.lease("python"), 20)
        models.release(lease)
        assert not any(entry.users for entry in models._entries.values())
        await models.close()

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_can_be_asked_for_again(registry: Slow):
    async def run() -> None:
        models = ModelPool(registry, _room_for(registry, 1), CACHE)
        registry.broken = True
        with pytest.raises(Refusal) as refused:
            await models.lease("java")
        assert refused.value.status == 500 and not models.resident
        registry.broken = False
        assert (await models.lease("java")).name == "java"
        await models.close()

    asyncio.run(run())


@pytest.fixture
def crowded(store: Path) -> Iterator[Any]:
    """A server with room for two of its four models."""
    registry = PackedRegistry(store, "bf16")
    memory = _room_for(registry, 2)
    with serving.running(store, registry, memory_bytes=memory, cache_bytes=CACHE) as server:
        yield server


def test_switching_drops_no_request(crowded: Any):
    names = ("base", *serving.SUBMODELS)

    def ask(index: int) -> str:
        with OpenAI(base_url=f"{crowded.url}/v1", api_key="x", max_retries=0) as client:
            model = names[index % 4]
            found = client.completions.create(model=model, prompt="ab", max_tokens=5 + index % 9, temperature=0)
            return f"{found.model} {found.choices[0].text}"

    alone = [ask(index) for index in range(14)]
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(ask, range(14))) == alone
    assert crowded.service.models.evictions > 2 and len(crowded.service.models.resident) <= 2


@pytest.mark.parametrize("form", SHARED)
def test_sub_models_share_the_base(store: Path, form: str):
    """All at once over one set of weights, in the room of the base, their masks and caches; answers as alone."""
    registry = open_registry(store, form)
    names = ["base", *serving.SUBMODELS]
    parts = {name: [part for _, own in packed_matrices(registry.load(name).model) for part in own] for name in names}
    assert len({tuple(part.values.data_ptr() for part in own) for own in parts.values()}) == 1
    for name in names:
        size = sum(part.mask.nbytes for part in parts[name] if part.mask is not None)
        assert registry.size_bytes(name) == size
    room = registry.shared_bytes + sum(registry.size_bytes(name) + CACHE for name in names)

    def ask(index: int) -> str:
        with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            found = client.completions.create(model=names[index % 4], prompt="ab", max_tokens=5 + index, temperature=0)
            return f"{found.model} {found.choices[0].text}"

    with serving.running(store, registry, memory_bytes=room, cache_bytes=CACHE) as server:
        alone = [ask(index) for index in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == alone
        assert server.service.models.evictions == 0 and len(server.service.models.resident) == 4
    # the base's weights are counted, though they belong to none of the four
    with serving.running(store, registry, memory_bytes=room - 1, cache_bytes=CACHE) as server:
        assert [ask(index) for index in range(4)] == alone[:4]
        assert server.service.models.evictions == 1


def test_waiting_for_memory_ends_in_503(store: Path):
    registry = PackedRegistry(store, "bf16")
    settings: Any = {"memory_bytes": _room_for(registry, 1), "cache_bytes": CACHE, "limits": Limits(wait_s=0.1)}
    with serving.running(store, registry, **settings) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            client.completions.create(model="java", prompt="x", max_tokens=1)
            entry = server.service.models._entries["java"]
            entry.users += 1  # as if it answered
            with pytest.raises(Exception, match="the others are busy") as refused:
                client.completions.create(model="maths", prompt="x", max_tokens=1)
            assert refused.value.response.headers["retry-after"] == "5"  # type: ignore[attr-defined]
            entry.users -= 1
            assert client.completions.create(model="maths", prompt="x", max_tokens=1).model == "maths"


def test_names_with_another_meaning_are_refused(tmp_path: Path):
    with pytest.raises(SubmodelError, match="another meaning"):
        PackedRegistry(serving.make_store(tmp_path, ("auto",)), "bf16")


@pytest.fixture(scope="module")
def llama() -> Any:
    """Large enough that what packing pads weighs little."""
    config = AutoConfig.for_model(
        "llama", vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "TQ1_0", "MXFP4"])
def test_a_gguf_base_is_counted_by_its_shapes(tmp_path: Path, llama: Any, kind: str):
    """Not by the bytes of its file, which are those of another format than the one it runs in."""
    file = tiny.save_gguf(tmp_path / "base.gguf", llama, kind)
    base = open_base(str(file))
    about = {"reference": str(file), "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    prefix, blocks = blocks_of(base.skeleton(torch.bfloat16))
    rng = np.random.default_rng(0)
    kept = {
        matrix.name: Mask(pack_bits(rng.random(matrix.weight.shape) < 0.5), matrix.weight.shape[-1])
        for i, block in enumerate(blocks)
        for matrix in matrices_of(block, f"{prefix}.{i}")
    }
    open_or_create(tmp_path / "store", about).add("half", kept, RECIPE)
    for form in ("bf16", "int8", "int4", "shared", "shared-int8"):
        registry = open_registry(tmp_path / "store", form)
        assert registry.describe("base")["parameters"] == sum(parameter.numel() for parameter in llama.parameters())
        for name in ("base", "half"):
            model = registry.load(name).model
            parts = [part for _, matrices in packed_matrices(model) for part in matrices]
            tensors = [tensor for part in parts for tensor in part.tensors.values()]
            size = sum({tensor.data_ptr(): tensor.nbytes for tensor in [*tensors, *model.parameters()]}.values())
            told = registry.describe(name)["size_bytes"]
            if form in SHARED:
                told += registry.shared_bytes
            assert abs(told - size) < 0.1 * size, (form, name, told, size)
