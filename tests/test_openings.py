"""One-token samples beside the text: which tokens, what share they get, and their way through every block."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from submodel.base.opening import open_base
from submodel.calibration import Samples, with_openings
from submodel.extract.job import extract
from submodel.prune.sparsity import RowSparsity, keep_mask
from submodel.prune.statistics import OPENINGS_SHARE, ClippedGram, Gram, SquaredNorm
from submodel.runtime.load import apply_masks
from submodel.store import Store
from tests import tiny


def test_the_most_frequent_tokens_come_first():
    ids = torch.tensor([[5, 5, 5, 2], [2, 7, 5, 2]])
    found = with_openings(Samples("d", ids), 6, 20).openings
    assert found is not None and found[:3].tolist() == [5, 2, 7]
    assert len(found) == len(found.unique()) == 6 and int(found.max()) < 20
    again = with_openings(Samples("d", ids), 6, 20).openings
    assert again is not None and torch.equal(found, again)
    every = with_openings(Samples("d", ids), 100, 20).openings
    assert every is not None and sorted(every.tolist()) == list(range(20))


@pytest.mark.parametrize("make", [SquaredNorm, Gram, ClippedGram])
def test_openings_get_their_share(make):
    generator = torch.Generator().manual_seed(0)
    text, openings = torch.randn(60, 9, generator=generator), 50 * torch.randn(30, 9, generator=generator)
    whole, other = make(9, torch.device("cpu")), make(9, torch.device("cpu"))
    whole.update(text)
    other.update(openings)
    whole.add_openings(other)
    share = OPENINGS_SHARE * text.square().sum() / openings.square().sum()
    expected = text.T @ text + share * openings.T @ openings
    torch.testing.assert_close(whole.sum_squares.float(), expected.diagonal(), rtol=1e-4, atol=1e-3)
    assert whole.tokens == 60
    if make is not SquaredNorm:
        torch.testing.assert_close(whole.products, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_massive_token_is_clipped(dtype: torch.dtype, kernels: str):
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(61, 9, generator=generator).to(dtype)
    text[7] *= 1000
    clipped, plain = ClippedGram(9, torch.device("cpu")), text.float().clone()
    given = text.clone()
    clipped.update(given)
    assert torch.equal(given, text)  # not changed in place: the block goes on with it
    plain[7] *= 4 * text.float().norm(dim=1).median() / text[7].float().norm()
    torch.testing.assert_close(clipped.products, plain.T @ plain, rtol=1e-4, atol=1e-3)
    clipped.update(text[:7])  # none to clip, and with what is there already
    torch.testing.assert_close(clipped.products, plain.T @ plain + plain[:7].T @ plain[:7], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_walk_runs_them_alone(llama: Path, tmp_path: Path, set_openings):
    """The masks of both blocks are those of text and one-token sequences run through the pruned blocks before."""
    ids = tiny.ids(5, 24)
    base = open_base(str(llama))
    set_openings(40)
    extract(base, [Samples("d", ids)], tmp_path / "s", method="wanda", dtype=torch.float32, batch_tokens=48)
    manifest = Store(tmp_path / "s").manifest("d")
    assert manifest["steps"][0]["openings"] == 40
    masks = Store(tmp_path / "s").masks("d")
    openings = with_openings(Samples("d", ids), 40, base.config.vocab_size).openings
    assert openings is not None
    for block in range(2):
        model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
        before = {name: mask for name, mask in masks.items() if int(name.split(".")[2]) < block}
        if before:
            apply_masks(model, before)
        linear = model.model.layers[block].mlp.gate_proj
        seen: list[torch.Tensor] = []
        linear.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].flatten(0, 1)))
        model(ids)
        model(openings[:, None])
        text, alone = (x.square().sum(0) for x in seen)
        score = linear.weight.abs() * (text + OPENINGS_SHARE * text.sum() / alone.sum() * alone).sqrt()
        kept = torch.from_numpy(masks[f"model.layers.{block}.mlp.gate_proj.weight"].unpack())
        assert (keep_mask(score, RowSparsity(0.5)) == kept).float().mean() > 0.995  # ties by rounding


def test_none_for_wanda(llama: Path, tmp_path: Path):
    samples = [Samples("d", tiny.ids(2, 16))]
    extract(open_base(str(llama)), samples, tmp_path / "s", method="wanda", dtype=torch.float32)
    assert Store(tmp_path / "s").manifest("d")["steps"][0]["openings"] == 0
