"""A model in a process of its own, run by transformers or by the packed runtime: `python -m submodel.bench.ours`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from submodel.base.arithmetic import quicken
from submodel.base.opening import open_base
from submodel.bench.child import answer_requests, resident_bytes
from submodel.runtime import Loaded, load
from submodel.runtime.forward import prefill, step
from submodel.runtime.packed.linear import packed_matrices
from submodel.tasks import TASKS, parse_task
from submodel.tasks.cell import Cell, Settings, Task
from submodel.tasks.rows import read_rows


class _Packed:
    """Our own decoding: the native engine where it knows the family."""

    def __init__(self, loaded: Loaded, room: int):
        self._loaded, self._room = loaded, room

    def prefill(self, ids: list[int]) -> None:
        self._cache, self._logits = prefill(self._loaded, ids, len(ids) + self._room)

    def step(self) -> None:
        self._logits = step(self._loaded, self._cache, [int(self._logits.argmax())])


class _Transformers:
    """As `transformers` runs it: its model with its own cache, without the overhead of its generate()."""

    def __init__(self, loaded: Loaded, room: int):
        self._model: Any = loaded.model

    def _run(self, ids: torch.Tensor, cache: Any) -> None:
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache, self._token = out.past_key_values, int(out.logits[0, -1].argmax())

    def prefill(self, ids: list[int]) -> None:
        self._run(torch.tensor([ids]), None)

    def step(self) -> None:
        self._run(torch.tensor([[self._token]]), self._cache)


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights as they are held, what is tied counted once: what the model takes on disk."""
    tensors = [*model.parameters()]
    tensors += [tensor for _, parts in packed_matrices(model) for packed in parts for tensor in packed.tensors.values()]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def start(about: dict[str, Any]) -> dict[str, Any]:
    before = resident_bytes()
    torch.set_num_threads(about["threads"])
    contender = about["contender"]
    eager = contender["engine"] == "transformers"
    reference, trust = contender["reference"], about["trust_remote_code"]
    if eager:  # as it is: not with our products
        opened = open_base(reference, trust)
        dtype = None if contender["form"] is None else getattr(torch, contender["form"])
        loaded = Loaded(reference, opened, opened.load(dtype), None)
    else:
        loaded = load(reference, base=contender["base"], weight_format=contender["form"], trust_remote_code=trust)
    ids = torch.randint(0, loaded.model.config.get_text_config().vocab_size, (about["prompt_tokens"],)).tolist()
    runner = _Transformers(loaded, about["new_tokens"]) if eager else _Packed(loaded, about["new_tokens"])

    @torch.inference_mode()
    def measure() -> dict[str, Any]:
        start = time.perf_counter()
        runner.prefill(ids)
        took = time.perf_counter() - start
        steps: list[float] = []
        for _ in range(about["new_tokens"]):
            start = time.perf_counter()
            runner.step()
            steps.append(time.perf_counter() - start)
        return {"prefill": took, "steps": steps}

    def size() -> dict[str, Any]:
        cell = Cell(Task("bench"), loaded, Settings(), Path(), frozenset(), lambda *_: None, lambda _: None)
        row = asdict(cell.row("", {"name": "speed"}, {}))
        after = resident_bytes()
        grown = None if before is None or after is None else after - before
        return {"row": row, "resident_bytes": grown, "weight_bytes": weight_bytes(loaded.model)}

    def rows(task: str, settings: dict[str, Any], out: str) -> dict[str, Any]:
        """New rows, and those that `out` has already."""
        quicken(loaded.model)  # speed has been measured: quality may be taken faster
        there = {row.key: row for row in read_rows(Path(out))}
        old: list[dict[str, Any]] = []
        data_dir = settings.pop("data_dir", None)
        cell_settings = Settings(**settings, data_dir=Path(data_dir) if data_dir else None)
        cell = Cell(
            parse_task(task),
            loaded,
            cell_settings,
            Path(out),
            frozenset(there),
            lambda *_: None,
            lambda _: None,
            already=lambda key: old.append(asdict(there[key])),
        )
        return {"new": [asdict(row) for row in TASKS[cell.task.name](cell)], "old": old}

    return {"measure": measure, "size": size, "rows": rows}


if __name__ == "__main__":
    answer_requests(start)
