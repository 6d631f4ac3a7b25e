"""Every format on every instruction set of this machine against float64, the torch twins and the sanitizers."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from csrc.build import build, compiler
from submodel.base import arithmetic, native
from submodel.base.arithmetic import linear
from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits
from submodel.runtime.packed import formats, huge_pages
from submodel.runtime.packed import matrix as packed
from submodel.runtime.packed.formats import BLOCK, FORMATS, SLACK, SURVIVORS
from submodel.runtime.packed.matrix import PackedMatrix, multiply, pack, unpack
from submodel.store import Mask

SHAPES = ((1, 1), (1, 64), (17, 63), (33, 65), (50, 128), (40, 130), (130, 896), (257, 385), (16, 576))

# relative to the norms of row and input: rounding of outputs to bfloat16, and of inputs to 8 bits a lane of 4 columns
TOLERANCE = {name: 0.004 if form.bits == 16 else 0.008 for name, form in FORMATS.items()}


def _example(rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, Mask, torch.Tensor]:
    """Weights, a mask with an all-dropped and an all-kept row, and the same mask as bool."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, cols, generator=generator).to(torch.bfloat16)
    keep = torch.rand(rows, cols, generator=generator) < 0.5
    if rows > 2:
        keep[1], keep[2] = False, True
        weights[0] = 0
    return weights, Mask(pack_bits(keep.numpy()), cols), keep


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_products(name: str, shape: tuple[int, int], kernels: str, monkeypatch: pytest.MonkeyPatch):
    weights, mask, _ = _example(*shape)
    matrix = pack(weights, mask, name)
    matrix.check()
    held = unpack(matrix)
    monkeypatch.setattr(packed, "_FEW", 40)  # the native product also where torch's would be taken
    for count in (1, 2, 3, 5, 8, 9, 17, 40):
        x = torch.randn(count, shape[1], generator=torch.Generator().manual_seed(count))
        x[0, 0] = 20.0  # an outlier, as activations have them
        x = x.to(torch.bfloat16)
        exact = x.double() @ held.double().T
        size = x.double().norm(dim=1)[:, None] * held.double().norm(dim=1)[None]
        error = (multiply(matrix, x).double() - exact).abs() / size.clamp(min=1e-9)
        assert error.max() <= TOLERANCE[name], (count, float(error.max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_packing_is_the_twins(name: str, shape: tuple[int, int], kernels: str, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit, and bfloat16 gives back the very weights."""
    weights, mask, keep = _example(*shape)
    mine, held = (matrix := pack(weights, mask, name)), unpack(matrix)
    parts = [unpack(mine, at, min(at + 2 * BLOCK, shape[0])) for at in range(0, shape[0], 2 * BLOCK)]
    monkeypatch.setattr(native, "library", lambda: None)
    twin = pack(weights, mask, name)
    assert mine.tensors.keys() == twin.tensors.keys()
    for part, tensor in twin.tensors.items():
        assert torch.equal(mine.tensors[part], tensor), part
    assert torch.equal(unpack(twin), held) and torch.equal(torch.cat(parts), held)
    expected = weights * keep if FORMATS[name].masked else weights
    if FORMATS[name].bits == 16:
        assert torch.equal(held, expected)
    else:
        groups = torch.nn.functional.pad(weights.float(), (0, -shape[1] % 64)).view(shape[0], -1, 64)
        step = groups.abs().amax(-1) / (7.5 if name == "int4" else 127)
        off = torch.nn.functional.pad((held - expected).float().abs(), (0, -shape[1] % 64)).view(groups.shape)
        # half a step, the clipped end of the 4-bit grid, and rounding of scale and product to bfloat16
        assert bool((off <= (1.1 if name == "int4" else 0.5 + 0.004 * 127) * step[..., None] + 1e-6).all())


@pytest.mark.parametrize("name", SURVIVORS)
def test_masks_share_one_grid(name: str):
    """A weight that two sub-models keep has the same value in both."""
    weights, one, keep = _example(20, 200)
    _, two, other = _example(20, 200, seed=1)
    a, b = unpack(pack(weights, one, name)), unpack(pack(weights, two, name))
    both = keep & other
    assert torch.equal(a[both], b[both])


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_dense_with_zeros(shape: tuple[int, int], kernels: str):
    """Bit for bit: packed and shared products make the sums of the dense one in the same order."""
    weights, mask, keep = _example(*shape)
    packed_weights, zeros = pack(weights, mask, "bf16"), pack(weights * keep, None, "dense")
    shared = pack(weights, mask, "shared")
    for count in (1, 3, 8):
        x = torch.randn(count, shape[1], generator=torch.Generator().manual_seed(count)).to(torch.bfloat16)
        assert torch.equal(multiply(packed_weights, x), multiply(zeros, x))
        assert torch.equal(multiply(shared, x), multiply(zeros, x))


@pytest.mark.parametrize("shape", SHAPES)
def test_shared_int8_is_int8(shape: tuple[int, int], kernels: str):
    """The two hold the same numbers; their sums may be made in another order."""
    weights, mask, _ = _example(*shape)
    shared, own = pack(weights, mask, "shared-int8"), pack(weights, mask, "int8")
    assert torch.equal(unpack(shared), unpack(own))
    x = torch.randn(3, shape[1]).to(torch.bfloat16)
    assert torch.equal(multiply(shared, x), multiply(own, x))


@pytest.mark.parametrize("name", ["shared", "shared-int8"])
def test_a_mask_over_weights_takes_its_bits_alone(name: str):
    weights, mask, _ = _example(40, 200)
    dense = pack(weights, None, name)
    one, two = (packed.share(dense, packed.mask_words(mask)) for _ in range(2))
    assert one.values.data_ptr() == two.values.data_ptr() == dense.values.data_ptr()
    assert one.size_bytes == dense.size_bytes + 40 * 4 * 8


def test_a_mask_that_keeps_more_than_there_is_is_refused(kernels: str):
    weights, mask, _ = _example(20, 70)
    beyond = mask.packed.copy()
    beyond[3, -1] |= 1 << 7
    for name in ("bf16", "shared"):
        with pytest.raises(SubmodelError, match="past them"):
            pack(weights, Mask(beyond, 70), name)


@pytest.mark.parametrize("tokens", [packed._FEW + 1, 64, 512])
@pytest.mark.parametrize("shape", [(896, 896), (2500, 300), (1536, 576)])
def test_prefill_is_dense_with_zeros(shape: tuple[int, int], tokens: int):
    weights, mask, keep = _example(*shape)
    x = torch.randn(tokens, shape[1]).to(torch.bfloat16)
    zeros = linear(x, weights * keep)
    for name in ("bf16", "shared"):
        assert torch.equal(multiply(pack(weights, mask, name), x), zeros)


def test_room_that_outlives_inference_mode_can_be_written():
    chunks = huge_pages._Chunks()
    with torch.inference_mode():
        chunks.take(100)
        arithmetic._buffers.by_dtype.clear()
        arithmetic.scratch(10, torch.bfloat16)
    chunks.take(100)[:] = 1
    arithmetic.scratch(10, torch.bfloat16)[:] = 1
    assert (arithmetic.scratch(10, torch.bfloat16) == 1).all()


def test_sizes():
    """What is promised of half the weights, of bytes of dense bfloat16."""
    weights, mask, _ = _example(256, 896, seed=3)
    for name, most in {"bf16": 0.57, "int8": 0.34, "int4": 0.22}.items():
        assert pack(weights, mask, name).size_bytes <= most * weights.nbytes


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_known_before_packing(name: str):
    """From the shape and the number of kept weights; halves of a row in 4 bits are about alike."""
    rows, cols = 256, 900
    keep = torch.rand(rows, cols, generator=torch.Generator().manual_seed(1)) < 0.4
    matrix = pack(torch.randn(rows, cols), Mask(pack_bits(keep.numpy()), cols), name)
    assert FORMATS[name].matrix_bytes(rows, cols, int(keep.sum())) == pytest.approx(matrix.size_bytes, rel=0.05)


def test_a_format_that_no_kernel_knows_runs_through_its_encoding(monkeypatch: pytest.MonkeyPatch):
    weights, mask, _ = _example(33, 130)
    x = torch.randn(3, 130).to(torch.bfloat16)
    known = pack(weights, mask, "int4")
    monkeypatch.setitem(FORMATS, "new", replace(FORMATS["int4"], code=None))
    new = pack(weights, mask, "new")
    new.check()
    assert torch.equal(new.values, known.values) and torch.equal(unpack(new), unpack(known))
    assert torch.equal(multiply(new, x), linear(x, unpack(known)))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 12])
def test_bias(name: str, count: int, kernels: str):
    weights, mask, _ = _example(1030, 70)
    matrix = pack(weights, mask, name)
    x, bias = torch.randn(count, 70).to(torch.bfloat16), torch.randn(1030).to(torch.bfloat16)
    sum_of_both = multiply(matrix, x).float() + bias.float()
    assert torch.allclose(multiply(matrix, x, bias).float(), sum_of_both, rtol=0.02, atol=0.02)


def test_threads_do_not_change_the_result():
    weights, mask, _ = _example(1000, 200)
    x = torch.randn(2, 200).to(torch.bfloat16)
    before = torch.get_num_threads()
    try:
        for name in FORMATS:
            found = []
            for threads in (1, 2, 5, 2):
                torch.set_num_threads(threads)
                matrix = pack(weights, mask, name)
                found.append((matrix.tensors, multiply(matrix, x)))
            for tensors, y in found[1:]:
                assert torch.equal(y, found[0][1])
                assert all(torch.equal(tensor, found[0][0][part]) for part, tensor in tensors.items())
    finally:
        torch.set_num_threads(before)


def test_a_damaged_matrix_is_refused(kernels: str):
    weights, mask, _ = _example(40, 130)
    for name in FORMATS:
        matrix = pack(weights, mask, name)
        parts = {**matrix.tensors}
        damaged = [{**parts, "values": parts["values"][:-n]} for n in (1, 2, SLACK)]
        for part in ("mask", "starts", "scales"):
            if part in parts:
                damaged += [{k: v for k, v in parts.items() if k != part}, {**parts, part: parts[part][:-1]}]
        if "mask" in parts:
            beyond = parts["mask"].clone()
            beyond[3, 2] |= 1 << 40  # column 168 of 130
            damaged += [{**parts, "mask": beyond}]
        if "starts" in parts:
            more, moved = parts["mask"].clone(), parts["starts"].clone()
            more[1, 0] = -1  # an all-dropped row
            moved[1] += 1
            damaged += [{**parts, "mask": more}, {**parts, "starts": moved}]
        for bad in damaged:
            with pytest.raises(SubmodelError, match="is damaged"):
                PackedMatrix(matrix.format, 40, 130, **bad).check()


def test_unknown_format():
    with pytest.raises(SubmodelError, match=r"unknown weight format 'int88' \(did you mean 'int8'\?\)"):
        formats.format_named("int88")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch):
    """One warning that says what to do, and everything still works."""
    monkeypatch.setattr(native, "LIBRARY", Path("nowhere.so"))
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    with pytest.warns(UserWarning, match="the methods swaps and distil run slowly; install a C\\+\\+ compiler"):
        assert native.instruction_set() == "torch"


def test_the_set_can_be_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    monkeypatch.setenv("SUBMODEL_KERNELS", "torch")
    assert native.instruction_set() == "torch"
    monkeypatch.setenv("SUBMODEL_KERNELS", "avx3")
    with pytest.raises(SubmodelError, match="unknown SUBMODEL_KERNELS 'avx3'"):
        native.instruction_set()


def test_a_forked_child_has_threads_of_its_own():
    weights, mask, _ = _example(2000, 128)
    matrix, x = pack(weights, mask, "int8"), torch.ones(1, 128, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        expected = multiply(matrix, x)
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(multiply(matrix, x), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_under_sanitizers(tmp_path: Path):
    """Nothing is read or written out of bounds, misaligned or undefined, on any instruction set."""
    if compiler() is None:
        pytest.skip("no C++ compiler")
    flags = ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = build(tmp_path / "driver", flags, Path(__file__).parent / "kernels_driver.cpp")
    for name in native.SETS[1:]:
        done = subprocess.run(
            [program], env={**os.environ, "SUBMODEL_KERNELS": name}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs a compiler for 64-bit ARM and qemu-user",
)
def test_arm(tmp_path: Path):
    """The same program on an emulated ARM processor."""
    driver, compiler = Path(__file__).parent / "kernels_driver.cpp", "aarch64-linux-gnu-g++"
    program = build(tmp_path / "driver", ("-O1", "-static"), driver, compiler, "aarch64")
    for processor, name in (("max", "neon"), ("cortex-a53", "reference")):  # the second has no dot products
        command = ["qemu-aarch64", "-cpu", processor, str(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout.strip()) == (0, name), done.stderr[-3000:]


def test_a_mask_row_is_padded_to_words():
    _, mask, keep = _example(3, 70)
    words = packed.mask_words(mask).numpy().view(np.uint64)
    assert words.shape == (3, 2)
    assert [bool(words[0, c // 64] >> np.uint64(c % 64) & np.uint64(1)) for c in range(70)] == keep[0].tolist()
