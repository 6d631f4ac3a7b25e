"""A fit toward the dense model: a block's stages, what a statistic keeps of both models, a plain twin of it all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.extract.job import extract
from submodel.prune.dense_target import DenseTarget
from submodel.prune.sparsity import RowSparsity, keep_mask
from submodel.prune.statistics import OPENINGS_SHARE
from submodel.runtime import load
from submodel.store import Store
from submodel.walk.paired import stages_of
from submodel.walk.record import Recorder
from tests import tiny

AFTER_ATTENTION = "post_attention_layernorm"
# family -> what is seen of the matrices that add to the residual stream: their last name, the module before which it is
STREAMS: dict[str, dict[str, str]] = {
    "llama": {"o_proj": "", "down_proj": AFTER_ATTENTION},
    "phi3": {"o_proj": "", "down_proj": AFTER_ATTENTION},
    "starcoder2": {"o_proj": "", "c_proj": AFTER_ATTENTION},
    "bloom": {"dense": "", "dense_4h_to_h": AFTER_ATTENTION},
    "mixtral": {"o_proj": ""},  # what experts put out is weighed first
    "gemma2": {},  # a norm stands between
    "gpt_neox": {},  # attention and MLP are added at once
}


@torch.no_grad()
@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_the_stages_of_a_block(family: str):
    model = tiny.build(family)
    prefix, blocks = blocks_of(model)
    hidden, calls = Recorder(model, blocks, lambda: None).record(tiny.ids(2, 24))
    matrices = matrices_of(blocks[0], f"{prefix}.0")
    stages = stages_of(blocks[0], calls[0], hidden, matrices)
    names = [name for stage in stages for name in stage.matrices]
    assert len(names) == len(set(names)) and set(names) <= {m.name for m in matrices}
    flat = [m.name for m in matrices if ".fc" in m.name] if family == "opt" else []  # it takes tokens out of samples
    assert {m.name for m in matrices} - set(names) == {m.name for m in matrices if "expert" in m.name} | set(flat)
    if family in STREAMS:
        found = {stage.matrices[0].split(".")[-2]: stage.stream for stage in stages if stage.stream is not None}
        assert found == STREAMS[family]
    if family == "llama":
        assert [len(stage.matrices) for stage in stages] == [3, 1, 2, 1]


def _sums(
    inputs: torch.Tensor, dense: torch.Tensor, weight: torch.Tensor, lack: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """G and the sum of (t - W x) x^T, token by token."""
    norms = inputs.norm(dim=1)
    gram, asked = torch.zeros(len(inputs.T), len(inputs.T)), torch.zeros(weight.shape)
    for x, own, lacks, norm in zip(inputs, dense, lack, norms, strict=True):
        scale = min(1.0, float(4 * norms.median() / norm))
        gram += scale**2 * x[:, None] * x
        asked += scale**2 * (weight @ own + lacks - weight @ x)[:, None] * x
    return gram, asked


@pytest.mark.parametrize("rows", [3, 11, 30])
@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_statistic_keeps(rows: int, writes: bool, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., torch.Tensor] = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    weight = draw(rows, 11).to(dtype)
    parts = [(draw(size, 11).to(dtype), draw(size, 11).to(dtype), draw(size, rows) * writes) for size in (17, 1, 40)]
    parts[0][0][5] *= 1000  # is clipped
    made = [DenseTarget(11, torch.device("cpu")) for _ in parts]
    for one, (inputs, dense, lack) in zip(made, parts, strict=True):
        given = inputs.clone()
        one.update_paired(given, dense, weight, lack if writes else None)
        assert torch.equal(given, inputs)
    weight = weight.float()
    expected = [_sums(inputs.float(), dense.float(), weight, lack) for inputs, dense, lack in parts]
    made[0].merge(made[1])
    openings = DenseTarget(11, torch.device("cpu"))
    openings.update(parts[2][0])
    made[0].add_openings(openings)
    text = [first + second for first, second in zip(*expected[:2], strict=True)]
    share = OPENINGS_SHARE * text[0].trace() / expected[2][0].trace()
    whole = made[0]
    assert whole.tokens == 18
    torch.testing.assert_close(whole.products, text[0] + share * expected[2][0], rtol=1e-4, atol=1e-3)
    assert (whole.gap is None) == (not writes and rows > 11) and (whole.cross is None) == (whole.gap is not None)
    asked = whole.gap if whole.cross is None else weight @ whole.cross
    near = 1e-2 if dtype == torch.float32 else 0.02 * float(text[1].abs().max())  # the products' own rounding
    torch.testing.assert_close(asked, text[1], rtol=1e-3, atol=near)


def _inputs(model: PreTrainedModel, ids: torch.Tensor, names: list[str]) -> list[torch.Tensor]:
    """What some modules get, (tokens, cols)."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: seen.update({name: args[0] if args else kwargs["hidden_states"]}),
            with_kwargs=True,
        )
        for name in names
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    return [seen[name].flatten(0, 1).double() for name in names]


Answer = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A matrix: name, weight, mask, inputs (tokens, cols), what it is to put out (tokens, rows) -> new weights; float64."""


def _plain(
    ours: Any, dense: Any, keeps: dict[str, torch.Tensor], samples: Samples, at_once: int, answer: Answer
) -> None:
    """Give a llama new weights matrix by matrix, whole models in memory."""
    attention, mlp = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")
    for name in keeps:  # those of a later stage are not run before it is fitted
        ours.get_parameter(name).data = dense.get_parameter(name).data.clone()
    for index in range(len(dense.model.layers)):
        block = f"model.layers.{index}"
        for stage in (attention, ("self_attn.o_proj",), mlp, ("mlp.down_proj",)):
            before = {"self_attn.o_proj": block, "mlp.down_proj": f"{block}.{AFTER_ATTENTION}"}.get(stage[0])
            names = [f"{block}.{stage[0]}", *([before] if before else [])]
            fitted = {}
            for matrix in stage:
                name = f"{block}.{matrix}.weight"
                weight, keep = dense.get_parameter(name).data.double(), keeps[name]
                inputs, targets = [], []
                for start in range(0, len(samples.ids), at_once):
                    ids = samples.ids[start : start + at_once]
                    x, *own = _inputs(ours, ids, names)
                    there, *theirs = _inputs(dense, ids, names)
                    target = there @ weight.T + (theirs[0] - own[0] if before else 0)
                    if samples.weights is not None:
                        scale = samples.weights[start : start + at_once].flatten().double().sqrt()[:, None]
                        x, target = x * scale, target * scale
                    norms = x.norm(dim=1, keepdim=True)
                    scale = (4 * norms.median() / norms).clamp(max=1)
                    inputs.append(x * scale)
                    targets.append(target * scale)
                fitted[name] = answer(name, weight, keep, torch.cat(inputs), torch.cat(targets)).float()
            for name, new in fitted.items():
                ours.get_parameter(name).data = new


def _least_squares(
    name: str, weight: torch.Tensor, keep: torch.Tensor, x: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    hold = (3 * x.shape[1] / len(x) * x.square().sum(0)).sqrt().diag()
    new = torch.zeros_like(weight)
    for row, (w, kept) in enumerate(zip(weight, keep, strict=True)):
        left = torch.cat([x[:, kept], hold[kept][:, kept]])
        right = torch.cat([target[:, row], hold[kept][:, kept] @ w[kept]])
        new[row, kept] = torch.linalg.lstsq(left, right).solution
    return new


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_plain_fit(weighted: bool, llama: Path, tmp_path: Path):
    base, ids = open_base(str(llama)), tiny.ids(5, 24)
    weights = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) + 0.5 if weighted else None
    samples = Samples("d", ids, weights=weights)
    options: dict[str, Any] = {"method": "wanda+reconstruct", "dtype": torch.float32, "batch_tokens": 48}
    extract(base, [samples], tmp_path / "store", **options)
    keeps = {name: torch.from_numpy(mask.unpack()) for name, mask in Store(tmp_path / "store").masks("d").items()}
    ours, plain, dense = load(f"{tmp_path / 'store'}@d").model, base.load(), base.load()
    _plain(plain, dense, keeps, samples, 2, _least_squares)
    moved = 0.0
    for name, keep in keeps.items():
        found, expected = ours.get_parameter(name), plain.get_parameter(name)
        change = (expected - dense.get_parameter(name))[keep].norm()
        assert (found - expected).norm() <= 0.02 * change, name
        moved = max(moved, float(change / expected.norm()))
    assert moved > 0.1


@torch.no_grad()
def test_pursuit_is_at_the_end_of_plain_exchanges(llama: Path, tmp_path: Path, set_openings):
    """Against what a matrix is to put out, by whole models: never above Wanda's mask, next to no exchange left."""
    base, samples = open_base(str(llama)), Samples("d", tiny.ids(8, 24))
    set_openings(0)
    options: dict[str, Any] = {"dtype": torch.float32, "batch_tokens": 48}
    extract(base, [samples], tmp_path / "store", method="pursuit", **options)
    keeps = {name: torch.from_numpy(mask.unpack()) for name, mask in Store(tmp_path / "store").masks("d").items()}
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    left: list[float] = []

    def look(
        name: str, weight: torch.Tensor, keep: torch.Tensor, x: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        start = keep_mask((weight.abs() * x.norm(dim=0)).float(), RowSparsity(0.5))
        errors = [(target - x @ (weight * mask).T).square().sum(0) for mask in (start, keep)]
        assert (errors[1] <= errors[0] * (1 + 1e-4)).all(), name
        before[name], after[name] = (float(error.sum()) for error in errors)
        for w, kept, error, t in zip(weight, keep, errors[1], target.T, strict=True):
            gap = t - x[:, kept] @ w[kept]
            # without a kept weight and with a dropped one: |gap + x_i w_i - x_j w_j|^2
            other = gap[:, None, None] + (x * w)[:, kept][:, :, None] - (x * w)[:, ~kept][:, None, :]
            left.append(float(1 - other.square().sum(0).min() / error))
        return weight * keep

    _plain(base.load(), base.load(), keeps, samples, 2, look)
    assert set(before) == set(keeps) and sum(after.values()) < 0.8 * sum(before.values())
    assert np.quantile(left, 0.95) < 0.02 and max(left) < 0.2  # of a row's error; pairs are formed among few


@pytest.mark.parametrize("method", ["pursuit", "swaps+reconstruct", "wanda+reconstruct+distil"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_progress_comes_to_its_end(method: str, family: str, tmp_path: Path, set_openings):
    set_openings(16)
    done: list[tuple[int, int]] = []
    options: dict[str, Any] = {"method": method, "progress": lambda a, b: done.append((a, b))}
    base = open_base(str(tiny.save(family, tmp_path / "model")))
    extract(base, [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(3, 24))], tmp_path / "store", **options)
    assert done == sorted(done) and done[-1][0] == done[-1][1] and len({total for _, total in done}) == 1


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "opt", "mixtral"])
def test_the_model_comes_nearer_to_the_dense_one(family: str, tmp_path: Path):
    base, samples = open_base(str(tiny.save(family, tmp_path / "model"))), Samples("d", tiny.ids(40, 24))
    distances = []
    for method in ("wanda", "pursuit", "wanda+reconstruct"):
        extract(base, [samples], tmp_path / method, method=method, dtype=torch.float32)
        ours = load(f"{tmp_path / method}@d").model
        distances.append((ours(samples.ids).logits - base.load()(samples.ids).logits).square().mean())
    assert distances[1] < 0.9 * distances[0] and distances[2] < 0.7 * distances[0]
