"""Masks against a literal transcription of the published algorithm (benchmarks/textbook.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.textbook import textbook_prune
from submodel.base.arithmetic import default_dtype
from submodel.base.matrices import blocks_of
from submodel.base.opening import open_base
from submodel.calibration import Samples, load_samples
from submodel.extract.job import extract
from submodel.prune.sparsity import parse_sparsity
from submodel.store import Store
from tests import tiny


def _ours(base_path: Path, samples: Samples, out: Path, **options) -> dict[str, np.ndarray]:
    extract(open_base(str(base_path)), [samples], out, dtype=torch.float32, **{"method": "wanda", **options})
    return {name: mask.unpack() for name, mask in Store(out).masks(samples.name).items()}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_wanda_is_the_published_algorithm_bit_for_bit(family: str, tmp_path: Path):
    path = tiny.save(family, tmp_path / "model")
    samples = Samples("d", tiny.ids(5, 24))
    ours = _ours(path, samples, tmp_path / "store", batch_tokens=48)
    model = tiny.build(family)
    theirs = textbook_prune(model, samples.ids, blocks=blocks_of(model)[1])
    assert sorted(ours) == sorted(theirs)
    for name, mask in theirs.items():
        assert np.array_equal(ours[name], mask.numpy()), name


@pytest.mark.parametrize(
    ("method", "sparsity", "pattern"),
    [
        ("magnitude", 0.5, None),
        ("wanda", 0.3, None),
        ("wanda", 0.77, None),
        ("wanda", 0.0, None),
        ("wanda", None, "2:4"),
    ],
)
def test_methods_sparsities_and_patterns(method: str, sparsity: float, pattern: str, tmp_path: Path):
    model = _llama({**tiny.FAMILIES["llama"], "intermediate_size": 52})
    model.save_pretrained(tmp_path / "model")
    samples = Samples("d", tiny.ids(4, 24))
    ours = _ours(
        tmp_path / "model", samples, tmp_path / "store", method=method, sparsity=parse_sparsity(sparsity, pattern)
    )
    n_m = (int(pattern[0]), int(pattern[2])) if pattern else None
    theirs = textbook_prune(
        model, samples.ids, method=method, sparsity=sparsity or 0.0, pattern=n_m, blocks=blocks_of(model)[1]
    )
    for name, mask in theirs.items():
        assert np.array_equal(ours[name], mask.numpy()), name


def _llama(settings: dict):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(vocab_size=tiny.VOCABULARY, **settings)).eval()


@pytest.mark.real
def test_wanda_on_a_real_model(real_model: Path, tmp_path: Path):
    """In this processor's arithmetic, on one thread on both sides: other thread counts and batch shapes round bfloat16
    differently (about 0.25% of bits)."""
    dtype = default_dtype("cpu")
    base = open_base(str(real_model))
    source = Path(torch.__file__).parent
    samples = load_samples("d", f"{source}:python", base.tokenizer, samples=4, seq_len=256, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        extract(base, [samples], tmp_path / "store", method="wanda", dtype=dtype, batch_tokens=256)
        model = base.load(dtype)
        theirs = textbook_prune(model, samples.ids, blocks=blocks_of(model)[1])
    finally:
        torch.set_num_threads(threads)
    ours = Store(tmp_path / "store").masks("d")
    equal = sum(int((ours[name].unpack() == mask.numpy()).sum()) for name, mask in theirs.items())
    assert equal / sum(mask.numel() for mask in theirs.values()) >= 0.999
