"""How far the masks of sub-models lie apart, as arrays; no drawing.

The Jaccard distance is taken on the sets of **kept** weights, 1 - |A and B| / |A or B|. The paper's code takes it on
the pruned positions; the two agree only where every row keeps exactly half.
"""

from dataclasses import dataclass, field

from submodel.base.matrices import split_name
from submodel.errors import SubmodelError
from submodel.prune.mask import Mask, Masks, popcount
from submodel.prune.vocabulary import KINDS, Vocabulary

_ANOTHER_BASE = "the sub-models are not of one base: compare sub-models of one store, or of one base"


@dataclass(frozen=True)
class Overlap:
    """Counts of weights in which two masks agree.

    Attributes:
        both, either: kept by both, by at least one.
        differ: kept by exactly one.
        weights: all positions.
    """

    both: int
    either: int
    differ: int
    weights: int

    @property
    def jaccard_distance(self) -> float:
        """1 - |A and B| / |A or B| on kept weights; 0 when neither keeps any."""
        return 1 - self.both / self.either if self.either else 0.0

    @property
    def differing(self) -> float:
        """The fraction of positions in which the masks differ."""
        return self.differ / self.weights

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.both + other.both,
            self.either + other.either,
            self.differ + other.differ,
            self.weights + other.weights,
        )


@dataclass(frozen=True)
class Comparison:
    """Two sub-models compared: the whole, per matrix, per block (by index), per matrix type (by name).

    `vocabulary` compares the tokens that they keep, head and cut; empty where one of them keeps all.
    """

    whole: Overlap
    matrices: dict[str, Overlap]
    blocks: dict[int, Overlap]
    types: dict[str, Overlap]
    vocabulary: dict[str, Overlap] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Jaccard distance {self.whole.jaccard_distance:.4f}, {self.whole.differing:.4f} of positions differ>"


def compare_masks(a: Masks, b: Masks) -> Comparison:
    """Compare two sets of masks of one base.

    Raises SubmodelError when they do not cover the same matrices.
    """
    if a.keys() != b.keys():
        raise SubmodelError(_ANOTHER_BASE)
    matrices: dict[str, Overlap] = {}
    blocks: dict[int, Overlap] = {}
    types: dict[str, Overlap] = {}
    nothing = Overlap(0, 0, 0, 0)
    for name in a:
        overlap = _overlap(a[name], b[name])
        block, kind = split_name(name)
        matrices[name] = overlap
        blocks[block] = blocks.get(block, nothing) + overlap
        types[kind] = types.get(kind, nothing) + overlap
    return Comparison(sum(matrices.values(), nothing), matrices, dict(sorted(blocks.items())), types)


def compare_vocabularies(a: Vocabulary | None, b: Vocabulary | None) -> dict[str, Overlap]:
    """Compare the tokens that two sub-models of one base keep, head and cut; nothing where one of them keeps all."""
    if a is None or b is None:
        return {}
    return {kind: _overlap(*(Mask(one.packed(kind), one.rows) for one in (a, b))) for kind in KINDS}


def _overlap(a: Mask, b: Mask) -> Overlap:
    if (a.packed.shape, a.cols) != (b.packed.shape, b.cols):
        raise SubmodelError(_ANOTHER_BASE)
    both = popcount(a.packed & b.packed)
    differ = popcount(a.packed ^ b.packed)
    return Overlap(both, both + differ, differ, a.weights)
