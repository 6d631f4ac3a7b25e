"""Every score by itself, fitted and distilled: exact rows in every family, the same bytes twice, several domains, after
a stop.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.textbook import textbook_prune
from submodel.base.matrices import blocks_of
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.extract.job import extract
from submodel.extract.workdir import BlockFiles
from submodel.prune.scores import SCORES
from submodel.prune.sparsity import parse_sparsity
from submodel.prune.statistics import Gram, SquaredNorm
from submodel.store import Store
from submodel.store.verify import verify
from tests import tiny

READING = [name for name, score in SCORES.items() if score.statistic is not None]
GATHERING = [
    *READING,
    *(f"{name}+reconstruct" for name in SCORES),
    *(f"{name}+distil" for name in ("wanda", "ria", "swaps", "pursuit")),
    *(f"{name}+reconstruct+distil" for name in ("wanda", "ria", "swaps", "pursuit")),
]
# the fit is the same code after every mask: with all families after one of them
APART = [name for name in GATHERING if name.startswith("wanda") or "+reconstruct" not in name]


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
@pytest.mark.parametrize("method", APART)
def test_exact_rows_and_the_same_bytes_twice(method: str, family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model")))
    domains = [Samples("a", tiny.ids(4, 24)), Samples("b", tiny.ids(4, 24, seed=1))]
    digests = []
    for run in ("one", "two"):
        extract(base, domains, tmp_path / run, method=method, dtype=torch.float32, batch_tokens=48)
        verify(tmp_path / run)
        manifests = [Store(tmp_path / run).manifest(name) for name in "ab"]
        digests.append([(manifest["masks"]["sha256"], manifest.get("weights")) for manifest in manifests])
    assert digests[0] == digests[1] and digests[0][0] != digests[0][1]


@pytest.mark.parametrize("method", GATHERING)
@pytest.mark.parametrize(("sparsity", "pattern"), [(0.7, None), (None, "2:4"), (None, "4:8")])
def test_patterns(method: str, sparsity: float | None, pattern: str | None, llama: Path, tmp_path: Path):
    found = parse_sparsity(sparsity, pattern)
    extract(open_base(str(llama)), [Samples("d", tiny.ids(4, 24))], tmp_path / "s", method=method, sparsity=found)
    verify(tmp_path / "s")


@pytest.mark.parametrize("method", GATHERING)
def test_interrupted_and_started_again(method: str, llama: Path, tmp_path: Path, monkeypatch):
    base, keep = open_base(str(llama)), BlockFiles.keep
    domains = [Samples("d", tiny.ids(5, 24)), Samples("e", tiny.ids(4, 24, seed=1))]
    extract(base, domains, tmp_path / "whole", method=method, dtype=torch.float32)

    def interrupted(self, block, found):
        if block == 2:
            raise KeyboardInterrupt
        keep(self, block, found)

    monkeypatch.setattr(BlockFiles, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(base, domains, tmp_path / "store", method=method, dtype=torch.float32)
    monkeypatch.undo()
    assert extract(base, domains, tmp_path / "store", method=method, dtype=torch.float32).resumed_blocks == 2
    whole, again = (
        {file.relative_to(tmp_path / out): file.read_bytes() for file in (tmp_path / out).rglob("*.safetensors")}
        for out in ("whole", "store")
    )
    assert whole == again


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_ria_is_the_published_score(family: str, tmp_path: Path):
    """Equal but for near-ties: the published code averages over samples, which rounds differently."""
    path = tiny.save(family, tmp_path / "model")
    samples = Samples("d", tiny.ids(5, 24))
    extract(open_base(str(path)), [samples], tmp_path / "store", method="ria", dtype=torch.float32, batch_tokens=48)
    model = tiny.build(family)
    theirs = textbook_prune(model, samples.ids, method="ria", blocks=blocks_of(model)[1])
    ours = Store(tmp_path / "store").masks("d")
    equal = sum(int((ours[name].unpack() == mask.numpy()).sum()) for name, mask in theirs.items())
    assert equal / sum(mask.numel() for mask in theirs.values()) >= 0.9995


@pytest.mark.parametrize("cols", [1, 13, 192, 193, 401])
def test_gram_in_parts_is_the_product(cols: int, kernels: str):
    """Its panels, with what was read in between, against the whole product; natively where bfloat16 is multiplied."""
    inputs = torch.randn(70, cols).bfloat16()
    whole, first, second = (Gram(cols, torch.device("cpu")) for _ in range(3))
    whole.update(inputs)
    first.update(inputs[:31])
    assert torch.equal(first.products, first.products.T)
    second.update(inputs[31:])
    first.merge(second)
    expected = inputs.double().T @ inputs.double()
    np.testing.assert_allclose(first.products, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(whole.products, expected, rtol=1e-5, atol=1e-4)
    rows = torch.randn(5, cols)
    assert first.energy(rows) == pytest.approx(float((rows.double() @ inputs.double().T).square().sum()), rel=1e-5)
    norms = SquaredNorm(cols, torch.device("cpu"))
    norms.update(inputs)
    np.testing.assert_allclose(whole.products.diagonal(), norms.sum_squares, rtol=1e-5)
    assert first.tokens == whole.tokens == 70
