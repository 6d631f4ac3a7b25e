"""How a mask is coded on disk: the gaps between the positions where it differs from a reference.

The gaps are compressed with Zstandard (RFC 8878): at a density p of differences this costs within a few per cent of
the entropy, -p log2 p - (1-p) log2 (1-p) bits a weight. docs/reference/format.md specifies it.
"""

import math

import numpy as np
import zstandard

from submodel.errors import SubmodelError
from submodel.prune.mask import Packed

_LEVEL = 3
_CHUNK_BYTES = 1 << 19
_ESCAPE = 255


def encode(packed: Packed, reference: Packed | None = None) -> bytes:
    """Code a mask by its differences from `reference` (from all zeros if None); see docs/reference/format.md."""
    bits: Packed = packed if reference is None else np.bitwise_xor(packed, reference)
    flat = bits.reshape(-1)
    parts: list[bytes] = []
    last = -1
    for at in range(0, len(flat), _CHUNK_BYTES):  # positions take 64 times the memory of the bits they stand for
        ones = np.flatnonzero(np.unpackbits(flat[at : at + _CHUNK_BYTES], bitorder="little")) + at * 8
        if len(ones):
            parts.append(_gap_bytes(np.diff(ones, prepend=last) - 1))
            last = int(ones[-1])
    return zstandard.ZstdCompressor(level=_LEVEL).compress(b"".join(parts))


def decode(coded: bytes, shape: tuple[int, ...], reference: Packed | None = None) -> Packed:
    """The inverse of `encode`; `shape` is the packed mask's shape.

    Raises SubmodelError when `coded` is not a whole code for a mask of this shape.
    """
    size = math.prod(shape)
    try:
        gap_bytes = np.frombuffer(zstandard.ZstdDecompressor().decompress(coded), dtype=np.uint8)
    except zstandard.ZstdError as error:
        raise SubmodelError(f"a coded mask is damaged ({error})") from error
    positions = np.cumsum(_gaps(gap_bytes) + 1) - 1
    if len(positions) and positions[-1] >= size * 8:
        raise SubmodelError(f"a coded mask is damaged: it reaches past its {size * 8} bits")
    bits = np.zeros(size * 8, dtype=np.uint8)
    bits[positions] = 1
    packed = np.packbits(bits, bitorder="little").reshape(shape)
    return packed if reference is None else packed ^ reference


def _gap_bytes(gaps: np.ndarray) -> bytes:
    # each gap as (gap // 255) escapes and one byte gap % 255
    escapes = gaps // _ESCAPE
    out = np.full(int(escapes.sum()) + len(gaps), _ESCAPE, dtype=np.uint8)
    out[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    return out.tobytes()


def _gaps(data: np.ndarray) -> np.ndarray:
    ends = np.flatnonzero(data != _ESCAPE)
    if len(data) and (len(ends) == 0 or ends[-1] != len(data) - 1):
        raise SubmodelError("a coded mask is damaged: it ends within a gap")
    escapes = np.diff(ends, prepend=-1) - 1
    return data[ends].astype(np.int64) + _ESCAPE * escapes
