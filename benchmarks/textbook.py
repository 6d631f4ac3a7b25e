"""Wanda as published: the slow, readable twin that our masks and timings are held against.

A literal transcription of the algorithm in
https://github.com/locuslab/wanda/blob/8e8fc87b4a2f9955baa7e76e64d5fce7fa8724a6/lib/prune.py
and lib/layerwrapper.py beside it (paper: arXiv 2306.11695). The whole model is in memory, one
calibration sample goes through at a time, every `nn.Linear` of a block has its own hook, and every
block runs twice: dense to gather statistics, then pruned to make the inputs of the next block.

Three differences, so that it runs on any decoder-only model of transformers 5:
- each block keeps the arguments that the model itself passes to it (rotary embeddings, masks,
  sliding windows), where the original knows only `attention_mask` and `position_ids`;
- "magnitude" compares inside one output row, as Wanda does, not over the whole matrix;
- an N:M pattern names what is kept: 3 of 4 is (3, 4), where the original counts what is removed.

Not covered: mixture-of-experts layers, layers that are not `nn.Linear`, samples of unequal length,
blocks with side inputs made from the token ids (refused with an error).
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel


class Call(NamedTuple):
    """What the model passes to one block besides the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class InputNorm:
    """Running mean over samples of the squared L2 norm of each input column of one linear."""

    def __init__(self, linear: nn.Linear) -> None:
        self.scaler_row = torch.zeros(linear.in_features, device=linear.weight.device)
        self.n_samples = 0

    def add_batch(self, inp: torch.Tensor) -> None:
        added = inp.shape[0] if inp.dim() == 3 else 1
        inp = inp.reshape(-1, inp.shape[-1]).t().type(torch.float32)  # (in_features, tokens)
        self.scaler_row *= self.n_samples / (self.n_samples + added)
        self.n_samples += added
        self.scaler_row += torch.norm(inp, p=2, dim=1) ** 2 / self.n_samples


def textbook_prune(
    model: PreTrainedModel,
    ids: torch.Tensor,
    *,
    method: str = "wanda",
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
    blocks: nn.ModuleList,
) -> dict[str, torch.Tensor]:
    """Prune `model` in place (it is left in eval mode) and return the masks, True = kept.

    `ids` is int64 (n_samples, seq_len); `blocks` are the decoder blocks of `model`. `sparsity` is the
    fraction removed from every row; `pattern` (n, m) keeps n of every m columns and replaces it.
    """
    if method not in ("wanda", "ria", "magnitude"):
        raise ValueError(f"unknown method {method!r}; choose 'wanda', 'ria' or 'magnitude'")
    model.eval()
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    masks: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        if method == "magnitude":
            for linear in (linear for block in blocks for linear in _linears(block)):
                masks[names[linear]] = _prune_linear(linear, linear.weight.abs(), sparsity, pattern)
            return masks

        inps, calls = _capture_inputs(model, ids, blocks)
        outs = torch.zeros_like(inps)
        for block, call in zip(blocks, calls, strict=True):
            norms = {linear: InputNorm(linear) for linear in _linears(block)}
            handles = [
                linear.register_forward_hook(lambda _, inp, out, norm=norm: norm.add_batch(inp[0]))
                for linear, norm in norms.items()
            ]
            _run_block(block, call, inps, outs)
            for handle in handles:
                handle.remove()
            for linear, norm in norms.items():
                size, scale = linear.weight.abs(), torch.sqrt(norm.scaler_row.reshape(1, -1))  # float32
                if method == "ria":
                    size, scale = size / size.sum(0) + size / size.sum(1, keepdim=True), scale**0.5
                score = size * scale
                masks[names[linear]] = _prune_linear(linear, score, sparsity, pattern)
            _run_block(block, call, inps, outs)
            inps, outs = outs, inps
    return masks


def _linears(block: nn.Module) -> list[nn.Linear]:
    return [module for module in block.modules() if isinstance(module, nn.Linear)]


def _run_block(block: nn.Module, call: Call, inps: torch.Tensor, outs: torch.Tensor) -> None:
    """One sample at a time: outs[j] = block(inps[j]); some blocks return a tuple."""
    for j in range(inps.shape[0]):
        out = block(inps[j].unsqueeze(0), *call.args, **call.kwargs)
        outs[j] = out[0] if isinstance(out, torch.Tensor) else out[0][0]


def _prune_linear(
    linear: nn.Linear, score: torch.Tensor, sparsity: float, pattern: tuple[int, int] | None
) -> torch.Tensor:
    """Zero the weights with the lowest `score` (rows, cols); return the mask of those kept."""
    cols = score.shape[1]
    removed = torch.zeros_like(score, dtype=torch.bool)
    if pattern is None:
        order = torch.sort(score, dim=-1, stable=True).indices
        removed.scatter_(1, order[:, : int(cols * sparsity)], True)
    else:
        n, m = pattern
        if cols % m:
            raise ValueError(f"{n}:{m} needs rows of a multiple of {m} columns, this one has {cols}")
        for start in range(0, cols, m):
            group = score[:, start : start + m].float()
            lowest = torch.topk(group, m - n, dim=1, largest=False).indices
            removed.scatter_(1, start + lowest, True)
    linear.weight[removed] = 0
    return ~removed


def _capture_inputs(
    model: PreTrainedModel, ids: torch.Tensor, blocks: nn.ModuleList
) -> tuple[torch.Tensor, list[Call]]:
    """Inputs of the first block (n_samples, seq_len, hidden), and the other arguments of each block.

    Every block is replaced for a moment by a recorder that hands its input on. As in the original,
    the arguments of one sample serve for all; the last sample is checked against the first.
    """
    n_samples, seq_len = ids.shape
    weight = next(model.parameters())
    hidden_size = model.config.get_text_config().hidden_size
    inps = torch.zeros((n_samples, seq_len, hidden_size), dtype=weight.dtype, device=weight.device)
    calls: dict[int, Call] = {}
    first_block = blocks[0].forward
    returns_tuple = False
    sample = 0

    def recorder(index: int):
        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal returns_tuple
            if index == 0:
                inps[sample] = hidden_states[0]
                if sample == 0:
                    returns_tuple = isinstance(first_block(hidden_states, *args, **kwargs), tuple)
            call = Call(args, kwargs)
            if sample == n_samples - 1 and not _same(calls.get(index, call), call):
                raise ValueError(f"block {index} gets other arguments for each sample: not covered")
            calls.setdefault(index, call)
            return (hidden_states,) if returns_tuple else hidden_states

        return forward

    try:
        for index, block in enumerate(blocks):
            block.forward = recorder(index)
        for sample in range(n_samples):
            # The base model has no lm_head: logits are not needed here.
            model.base_model(ids[sample : sample + 1].to(weight.device), use_cache=False)
    finally:
        for block in blocks:
            del block.forward  # the class's own forward is seen again
    return inps, [calls[index] for index in range(len(blocks))]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b
