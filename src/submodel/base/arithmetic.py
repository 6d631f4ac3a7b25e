"""What a processor multiplies well, and products of 16-bit matrices on one that does not.

A processor without products in bfloat16 (x86 before AVX512-BF16, AMD's before Zen 4) gets them from torch one by one:
an eighth of the rate of float32 on Zen 3. `linear` then multiplies in float32 and rounds the sums, which is what a
native product does too, so that a model may stay in 16 bits: by csrc/fma.cpp where that runs, which converts weights in
registers, else by converting them panel by panel for torch.
"""

import functools
import threading

import torch
from torch import nn
from torch.nn import functional

from submodel.base import native

_NATIVE = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "fp16"),
}
_PANEL = 1 << 20  # weights converted at once: 4 MB


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_dtype: dict[torch.dtype, torch.Tensor] = {}


_buffers = _Buffers()


@functools.cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether this machine's processor has products of the dtype."""
    has = torch.cpu.get_capabilities()
    return dtype not in _NATIVE or any(has.get(name) for name in _NATIVE[dtype])


def default_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is multiplied natively, else float32."""
    native = torch.device(device).type != "cpu" or multiplies(torch.bfloat16)
    return torch.bfloat16 if native else torch.float32


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`functional.linear`: x (..., cols), weight (rows, cols), bias (rows) -> (..., rows).

    Where gradients are recorded torch does it, and with one row of x: converting the weights would cost more than it
    saves.
    """
    rows, cols = weight.shape
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if recorded or x.device.type != "cpu" or x.numel() <= cols or multiplies(x.dtype):
        return functional.linear(x, weight, bias)
    if x.dtype == torch.bfloat16 and weight.is_contiguous() and native.instruction_set() == "avx2":
        return _dense(x, weight, bias)
    flat = x.reshape(-1, cols).float()
    out = torch.empty(len(flat), rows, dtype=x.dtype)
    size = max(1, _PANEL // cols)
    for first in range(0, rows, size):
        last = min(first + size, rows)
        panel = scratch((last - first) * cols, torch.float32).view(last - first, cols).copy_(weight[first:last])
        out[:, first:last] = functional.linear(flat, panel, None if bias is None else bias[first:last].float())
    return out.view(*x.shape[:-1], rows)


def _dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`linear` in bfloat16, by the native kernel."""
    rows, cols = weight.shape
    flat = x.reshape(-1, cols).contiguous()
    y = torch.empty(len(flat), rows, dtype=torch.bfloat16)
    at = None if bias is None else bias.data_ptr()
    native.library().sm_dense(
        weight.data_ptr(), rows, cols, flat.data_ptr(), len(flat), at, y.data_ptr(), torch.get_num_threads()
    )
    return y.view(*x.shape[:-1], rows)


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight, self.bias)


def quicken(model: nn.Module) -> None:
    """Let the linears of a model that is only run, not trained, multiply as fast as this processor can, in place."""
    for module in model.modules():
        if type(module) is nn.Linear and not multiplies(module.weight.dtype):
            module.__class__ = Linear


def scratch(size: int, dtype: torch.dtype) -> torch.Tensor:
    """The calling thread's buffer for `size` numbers, valid until it asks again.

    A new one each time would cost more, in page faults, than filling it.
    """
    kept = _buffers.by_dtype.get(dtype)
    if kept is None or kept.numel() < size:
        with torch.inference_mode(False):  # it outlives the caller's mode
            kept = _buffers.by_dtype[dtype] = torch.empty(size, dtype=dtype)
    return kept[:size]
