"""Sparsity moved until one more weight wins as much everywhere: gains against a literal reference, what a round moves,
a total that stays, after a kill."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.base.matrices import all_matrices
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.extract.job import extract
from submodel.prune.allocate import marginal
from submodel.prune.allocate.marginal import ROUNDS, Rounds, gains, moved, rounds_of
from submodel.prune.gradients import input_norms
from submodel.prune.mask import row_popcounts
from submodel.prune.sparsity import RowSparsity, keep_mask
from submodel.store import Store
from tests import tiny
from tests.kill import KilledOnce

DOMAINS = [Samples("d", tiny.ids(5, 24), lengths=(24, 9, 24, 24, 17)), Samples("e", tiny.ids(4, 24, seed=1))]


def test_gains_are_those_of_the_textbook(llama: Path):
    """The divergence written out, its gradient by the masked weights, the weights next to come back one by one."""
    base, text = open_base(str(llama)), DOMAINS[0]
    model = base.load(torch.float32).requires_grad_(False)
    names = [matrix.name for matrix in all_matrices(model)]
    norms = input_norms(model, names, text)
    chance = torch.Generator().manual_seed(0)
    patterns: dict[str, RowSparsity] = {}
    for name in names:
        rows, cols = model.get_parameter(name).shape
        patterns[name] = RowSparsity(0.5, counts=torch.randint(0, cols, (rows,), generator=chance))
    told: list[int] = []
    found = gains(model, text, patterns, norms, told.append)
    assert told == [24, 9, 24, 24, 17]

    dense = {name: model.get_parameter(name).data for name in names}
    scores = {name: weight.abs() * norms[name].sqrt() for name, weight in dense.items()}
    with torch.no_grad():
        said = [model(ids[None, :n]).logits[0].log_softmax(-1) for ids, n in zip(text.ids, text.sizes, strict=True)]
    for name, weight in dense.items():
        parameter = model.get_parameter(name)
        parameter.data = weight * keep_mask(scores[name], patterns[name])
        parameter.requires_grad_()
    loss: Any = 0
    for ids, n, want in zip(text.ids, text.sizes, said, strict=True):
        loss = loss + (want.exp() * (want - model(ids[None, :n]).logits[0].log_softmax(-1))).sum()
    (loss / sum(text.sizes)).backward()
    for name, weight in dense.items():
        gradient, counts = model.get_parameter(name).grad, patterns[name].counts
        assert gradient is not None and counts is not None
        band = max(1, int(weight.shape[1] * 0.06))
        wanted = np.zeros(len(weight))
        for row, removed in enumerate(counts.tolist()):
            next_ = scores[name][row].argsort(stable=True)[max(0, removed - band) : removed]
            if removed:
                wanted[row] = np.mean([-float(gradient[row, at] * weight[row, at]) for at in next_])
        assert found[name] == pytest.approx(wanted, rel=1e-3, abs=1e-3 * np.abs(wanted).max())


def test_what_a_round_moves():
    apart = [np.array([-1.0, 1.0]), np.array([-0.5, 0.5, 0.0])]
    where, sizes = Rounds([0.1, -0.2], 0.06, [0.0, 0.0]), [200, 300]
    even = moved(where, [np.full(2, 3.0), np.full(3, 3.0)], apart, sizes)
    assert even.more == pytest.approx(where.more) and even.slope == pytest.approx(0.06) and even.rounds == 1
    assert even.gains == [3.0, 3.0]

    # a mean of 1, the first matrix twice as much, the second a third; rows that cost e times as much win 0.25 more
    apart = [apart[0], np.zeros(3)]
    tilted = moved(where, [np.array([1.75, 2.25]), np.full(3, 1 / 3)], apart, sizes)
    assert np.subtract(tilted.more, where.more) == pytest.approx(0.07 * np.log([2, 1 / 3]))
    assert tilted.slope == pytest.approx(0.06 + 0.1 * 0.25)

    # the next round: less far, from both rounds' gains, the earlier at half weight; below 0 is next to nothing
    again = moved(tilted, [np.full(2, -1.0), np.full(3, 2.0)], apart, sizes)
    assert again.gains == pytest.approx([(2 / 2 - 1) / 1.5, (1 / 6 + 2) / 1.5])
    mean = np.average(again.gains, weights=sizes)
    wanted = 0.07 * (1 - 1 / ROUNDS) * np.log(np.maximum(np.divide(again.gains, mean), 0.15))
    assert np.subtract(again.more, tilted.more) == pytest.approx(wanted)

    lost = moved(where, [np.full(2, -1.0), np.full(3, -1.0)], apart, sizes)
    assert lost == replace(where, gains=[-1.0, -1.0], rounds=1)


def test_the_text_of_each_round():
    long = Samples("d", tiny.ids(9, 2000))
    assert rounds_of(long) == [slice(0, 3), slice(3, 6), slice(6, 9)] * 2
    assert rounds_of(DOMAINS[0]) == [slice(0, 5)] * ROUNDS


@pytest.mark.parametrize("samples", [0, 12, 31])
def test_interrupted_between_rounds_and_started_again(
    samples: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After so many samples' gradients, 30 of the first domain and 24 of the other: a round that is done stays done."""
    run = partial(extract, open_base(str(llama)), DOMAINS, method="wanda", allocation="marginal", dtype=torch.float32)
    run(out=tmp_path / "whole")
    learnt = KilledOnce(monkeypatch, marginal, "learn", samples + 1)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path / "store")
    learnt.calls = 0
    run(out=tmp_path / "store")
    assert learnt.calls == 54 - (samples // 5 * 5 if samples < 30 else 30)
    for name in "de":
        one, two = (Store(tmp_path / out).manifest(name) for out in ("whole", "store"))
        assert one["masks"] == two["masks"] and one["matrix_sparsity"] == two["matrix_sparsity"]
    kept = {name: row_popcounts(mask.packed) for name, mask in Store(tmp_path / "store").masks("d").items()}
    cols = {name: mask.cols for name, mask in Store(tmp_path / "store").masks("d").items()}
    assert sum(int(rows.sum()) for rows in kept.values()) == sum(len(kept[n]) * (cols[n] - cols[n] // 2) for n in kept)
    assert len({round(float(rows.mean()) / cols[name], 3) for name, rows in kept.items()}) > 1
