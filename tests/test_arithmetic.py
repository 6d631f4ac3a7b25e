"""Products of 16-bit matrices on a processor that has none."""

import pytest
import torch
from torch import nn

from submodel.base import arithmetic, native


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies float32 only, and panels of a few rows."""
    monkeypatch.setattr(arithmetic, "multiplies", lambda dtype: dtype == torch.float32)
    monkeypatch.setattr(arithmetic, "_PANEL", 100)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "rows", "cols"),
    [((2,), 7, 33), ((3, 5), 1, 1), ((17,), 50, 9), ((2, 1, 4), 3, 257), ((19,), 5, 1100), ((300,), 40, 32)],
)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("way", ["kernel", "panels"])
def test_products_are_rounded_once(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    rows: int,
    cols: int,
    biased: bool,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
):
    if way == "kernel" and (dtype != torch.bfloat16 or native.library() is None):
        pytest.skip("needs bfloat16 and the native kernels")
    monkeypatch.setattr(native, "instruction_set", lambda: "avx2" if way == "kernel" else "torch")
    generator = torch.Generator().manual_seed(rows)
    x, weight, bias = (
        torch.randn(size, generator=generator).to(dtype) for size in ((*shape, cols), (rows, cols), (rows,))
    )
    with torch.inference_mode():
        found = arithmetic.linear(x, weight, bias if biased else None)
    exact = x.double() @ weight.double().T + (bias.double() if biased else 0)
    assert found.dtype == dtype and found.shape == (*shape, rows)
    # half a step of the dtype, and what float32 sums lose where terms cancel
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps / 2, atol=1e-5 * cols**0.5)


@pytest.mark.usefixtures("plain")
def test_a_row_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch):
    """So what a batch gives is what each of its sequences gives, and another order of work gives the same bits."""
    if native.library() is None:
        pytest.skip("needs the native kernels")
    monkeypatch.setattr(native, "instruction_set", lambda: "avx2")
    x, weight = torch.randn(300, 70).bfloat16(), torch.randn(33, 70).bfloat16()
    with torch.inference_mode():
        whole = arithmetic.linear(x, weight)
        for count in (2, 3, 7, 64):
            assert torch.equal(arithmetic.linear(x[20 : 20 + count], weight), whole[20 : 20 + count])


@pytest.mark.usefixtures("plain")
def test_a_model_is_quickened_in_place():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4, bias=False)).bfloat16()
    before = model.state_dict()
    x = torch.randn(5, 8).bfloat16()
    with torch.inference_mode():
        wanted = model(x)
        arithmetic.quicken(model)
        found = model(x)
    assert [type(module) for module in model] == [arithmetic.Linear, nn.ReLU, arithmetic.Linear]
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-7)


@pytest.mark.usefixtures("plain")
def test_gradients_are_those_of_torch():
    model = arithmetic.Linear(8, 6).bfloat16()
    x = torch.randn(5, 8).bfloat16()
    grads = []
    for run in (model, lambda x: nn.functional.linear(x, model.weight, model.bias)):
        model.zero_grad()
        run(x).float().square().sum().backward()
        grads += [model.weight.grad.clone()]  # type: ignore[union-attr]
    assert torch.equal(*grads)


@pytest.mark.usefixtures("plain")
def test_what_the_processor_multiplies_stays_as_it_is():
    model = nn.Linear(8, 6)
    arithmetic.quicken(model)
    assert type(model) is nn.Linear


@pytest.mark.parametrize(
    ("has", "wanted"), [({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"bf16": True}, torch.bfloat16)]
)
def test_arithmetic_follows_the_processor(monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], wanted: torch.dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(arithmetic, "multiplies", arithmetic.multiplies.__wrapped__)  # what it knows is cached
    assert arithmetic.default_dtype("cpu") == wanted
    assert arithmetic.default_dtype("meta") == torch.bfloat16
