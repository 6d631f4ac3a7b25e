"""Perplexity against a plain computation, its interval, and comparison of masks against sets."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from submodel.base.matrices import split_name
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits
from submodel.store import Mask
from submodel.store.compare import compare_masks
from submodel.tasks.perplexity import from_losses, window_losses
from submodel.tasks.rows import read_rows
from tests import tiny


def test_perplexity_is_exp_of_the_mean_loss():
    model = tiny.build("llama")
    ids = tiny.ids(6, 90)
    found = from_losses(window_losses(model, Samples("d", ids)), ids.shape[1] - 1)
    with torch.no_grad():
        logs = model(ids).logits[:, :-1].log_softmax(-1)
    losses = -logs.gather(-1, ids[:, 1:, None])
    assert found.value == pytest.approx(math.exp(losses.mean()), rel=1e-5)
    assert found.tokens == 6 * 89
    assert found.low < found.value < found.high


def test_interval_covers_the_truth():
    """Over many draws, the 95% interval holds the true mean about 95 times in a hundred."""
    rng = np.random.default_rng(0)
    hits = sum(
        found.low <= math.exp(2.0) <= found.high
        for found in (from_losses(rng.normal(2.0, 0.3, size=60), 100) for _ in range(200))
    )
    assert 0.90 <= hits / 200 <= 0.99


def test_rows_that_are_no_rows(tmp_path: Path):
    assert read_rows(tmp_path / "none.jsonl") == []
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(SubmodelError, match="line 1"):
        read_rows(tmp_path / "a.jsonl")


def test_jaccard_distance_is_that_of_sets():
    rng = np.random.default_rng(0)
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.1.q.weight"]
    kept = [{n: rng.random((13, 29)) < 0.4 for n in names} for _ in range(2)]
    a, b = ({n: Mask(pack_bits(m), 29) for n, m in group.items()} for group in kept)
    found = compare_masks(a, b)
    sets = [{(n, *i) for n, m in group.items() for i in np.argwhere(m)} for group in kept]
    assert found.whole.jaccard_distance == pytest.approx(1 - len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert found.whole.differing == len(sets[0] ^ sets[1]) / (3 * 13 * 29)
    assert list(found.blocks) == [0, 1] and list(found.types) == ["mlp.up_proj", "q"]
    assert found.blocks[1].weights == 2 * 13 * 29
    assert compare_masks(a, a).whole.jaccard_distance == 0
    with pytest.raises(SubmodelError, match="not of one base"):
        compare_masks(a, {n: b[n] for n in names[:2]})


def test_names():
    assert split_name("model.layers.12.self_attn.q_proj.weight") == (12, "self_attn.q_proj")
    assert split_name("transformer.h.3.mlp.dense.weight") == (3, "mlp.dense")
    assert split_name("model.layers.3.mlp.experts.gate_up_proj") == (3, "mlp.experts.gate_up_proj")
