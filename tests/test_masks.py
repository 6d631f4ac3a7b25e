"""Packed bits and their code, over odd shapes."""

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits, popcount, row_popcounts, unpack_bits
from submodel.store.encoding import decode, encode

SHAPES = [(1, 1), (3, 7), (5, 8), (4, 9), (2, 3, 17), (130, 257), (511, 350)]


def _mask(shape: tuple[int, ...], density: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize("shape", SHAPES)
def test_pack_is_bit_j_of_byte_j_div_8(shape: tuple[int, ...]):
    mask = _mask(shape, 0.5)
    packed = pack_bits(mask)
    assert packed.shape == (*shape[:-1], -(-shape[-1] // 8))
    for index in np.ndindex(shape):  # the slow twin
        *row, j = index
        assert bool(packed[(*row, j // 8)] >> (j % 8) & 1) == mask[index]
    assert np.array_equal(unpack_bits(packed, shape[-1]), mask)
    assert popcount(packed) == mask.sum()
    assert np.array_equal(row_popcounts(packed), mask.sum(axis=-1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.001, 0.04, 0.5, 1.0])
def test_code_round_trip(shape: tuple[int, ...], density: float):
    reference = pack_bits(_mask(shape, 0.5))
    other = pack_bits(unpack_bits(reference, shape[-1]) ^ _mask(shape, density, seed=1))
    for against in (reference, None):
        assert np.array_equal(decode(encode(other, against), other.shape, against), other)


def test_code_is_near_the_entropy():
    p = 0.045
    reference = pack_bits(_mask((600, 4096), 0.5))
    other = pack_bits(unpack_bits(reference, 4096) ^ _mask((600, 4096), p, seed=1))
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert 8 * len(encode(other, reference)) / (600 * 4096) < 1.05 * entropy


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: b"", lambda c: c[:20] + b"\0\0\0\0" + c[24:]])
def test_damaged_code_is_refused(damage):
    packed = pack_bits(_mask((40, 100), 0.3))
    with pytest.raises(SubmodelError, match="damaged"):
        decode(damage(encode(packed)), packed.shape)


def test_code_that_reaches_too_far_is_refused():
    packed = pack_bits(_mask((40, 100), 0.9))
    with pytest.raises(SubmodelError, match="past"):
        decode(encode(packed), (2, 13))
