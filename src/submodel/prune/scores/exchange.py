"""Swaps: from Wanda's mask, exchange kept and dropped weights of a row as long as its output error falls.

The error of a row w with mask m is ||((1 - m) w) X||^2 = r G r^T with r = (1 - m) w and the Gram matrix G = X X^T.
Dropping a kept weight i and taking back a dropped weight j changes it by

    2 w_i c_i + w_i^2 G_ii  -  2 w_j c_j + w_j^2 G_jj  -  2 w_i w_j G_ij        with c = r G,

which is SparseSwaps (arXiv 2512.10922). `pursuit` makes the same exchanges of the error against what the row is to put
out so that the model comes near the dense one, t instead of w x (`toward`): with b = sum over tokens of (t - w x) x^T
that is r G r^T + 2 r b^T and what no mask changes, and c = r G + b.

Deviations, for speed: pairs are formed among the few best i and the few best j of a row by their own terms; and the
pairs of a round are made one after another inside that small set, with every change of c taken into account, before c
is renewed for all columns. N:M patterns exchange inside a group only.
"""

from dataclasses import dataclass

import torch

from submodel.base import native
from submodel.prune.dense_target import DenseTarget, Target
from submodel.prune.scores.score import Part, Score
from submodel.prune.sparsity import NM, Sparsity, keep_mask
from submodel.prune.statistics import ClippedGram, Gram

_CANDIDATES = 8
_ROUNDS = 60
_RENEW = 16  # rounds after which c is computed anew, so that rounding does not add up
_LEAST = 1e-6  # an exchange must lower a row's error by this part of it: what float32 can tell


@dataclass(frozen=True)
class Exchanged:
    """What a run did: bool mask (rows, cols), and each row's error before and after, float32 (rows,).

    With a target other than W x the errors lack what no mask changes, so they may be below 0.
    """

    keep: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


def decide(weight: torch.Tensor, inputs: Gram, sparsity: Sparsity, part: Part) -> torch.Tensor:
    """Wanda's mask, then exchanges until no row gains or the rounds are used up."""
    return exchange(weight, inputs.products.to(weight.device), sparsity).keep


def exchange(
    weight: torch.Tensor,
    gram: torch.Tensor,
    sparsity: Sparsity,
    *,
    start: torch.Tensor | None = None,
    gap: torch.Tensor | None = None,
    rounds: int = _ROUNDS,
    candidates: int = _CANDIDATES,
) -> Exchanged:
    """Lower the output error of every row by exchanges.

    Args:
        weight: float32 (rows, cols).
        gram: float32 (cols, cols), symmetric.
        sparsity: of `start`; exchanges of N:M stay inside a group, and leave a last, shorter group alone.
        start: mask to begin with, True = kept; Wanda's if None.
        gap: (rows, cols), sum over tokens of (t - W x) x^T, t being the target; None where t is W x.
        rounds: at most; each makes up to `candidates` exchanges a row.
        candidates: weights of each kind (of N:M: groups) that a round looks at.

    Returns:
        A mask with as many kept weights in every row and group as the start, of an error no higher.
    """
    diagonal = gram.diagonal()
    if start is None:
        start = keep_mask(weight.abs() * diagonal.clamp(min=0).sqrt(), sparsity)
    group_size = sparsity.m if isinstance(sparsity, NM) else 0
    keep = start.clone()
    pull = _pull(weight, keep, gram, gap)
    before = _error(weight, keep, pull, gap)
    plain = weight.device.type == "cpu" and weight.dtype == gram.dtype == torch.float32
    library = native.library() if plain and candidates == _CANDIDATES else None
    if library:
        tensors = [t.contiguous() for t in (weight, gram, diagonal)]
        library.sm_exchange(
            *(t.data_ptr() for t in tensors),
            *(*weight.shape, group_size, rounds, _LEAST, pull.data_ptr(), keep.data_ptr(), torch.get_num_threads()),
        )
    else:
        _exchange(weight, gram, group_size, keep, pull, gap, rounds, candidates)
    after = _error(weight, keep, _pull(weight, keep, gram, gap), gap)
    worse = after > before  # rounding, near a fixed point
    keep[worse], after[worse] = start[worse], before[worse]
    return Exchanged(keep, before, after)


def _exchange(
    weight: torch.Tensor,
    gram: torch.Tensor,
    group_size: int,
    keep: torch.Tensor,
    pull: torch.Tensor,
    gap: torch.Tensor | None,
    rounds: int,
    candidates: int,
) -> None:
    """The twin of csrc/exchange.h for any device: changes `keep`."""
    diagonal = gram.diagonal()
    rows, part = torch.arange(len(weight), device=weight.device), weight  # those that may still gain
    for turn in range(1, rounds + 1):
        kept = keep[rows]
        least = _LEAST * (pull * part).masked_fill(kept, 0).sum(1).clamp(min=0)
        linear, square = 2 * part * pull, part.square() * diagonal
        dropping = (square + linear).masked_fill(~kept, torch.inf)
        keeping = (square - linear).masked_fill(kept, torch.inf)
        if group_size:
            out, back = _best_of_groups(part, gram, dropping, keeping, group_size, candidates)
        else:
            out, back = _lowest(dropping, candidates), _lowest(keeping, candidates)
        pairs = _exchange_among(part, pull, gram, kept, out, back, least, paired=bool(group_size))
        gained = pairs.made[:, 0] if pairs.made.shape[1] else torch.zeros(len(rows), dtype=torch.bool)
        rows, part, pull, pairs = rows[gained], part[gained], pull[gained], pairs.rows(gained)
        if not len(rows):
            return
        for made, out, back in zip(pairs.made.T, pairs.out.T, pairs.back.T, strict=True):
            keep[rows[made], out[made]] = False
            keep[rows[made], back[made]] = True
            change = part.gather(1, out[:, None]) * gram[out] - part.gather(1, back[:, None]) * gram[back]
            pull += change * made[:, None]
        if turn % _RENEW == 0:
            pull = _pull(part, keep[rows], gram, None if gap is None else gap[rows])


@dataclass(frozen=True)
class _Pairs:
    """Exchanges in the order they are made: columns `out` and `back` (rows, exchanges), and whether they are made."""

    out: torch.Tensor
    back: torch.Tensor
    made: torch.Tensor

    def rows(self, chosen: torch.Tensor) -> "_Pairs":
        return _Pairs(self.out[chosen], self.back[chosen], self.made[chosen])


def _exchange_among(
    weight: torch.Tensor,
    pull: torch.Tensor,
    gram: torch.Tensor,
    keep: torch.Tensor,
    out: torch.Tensor,
    back: torch.Tensor,
    least: torch.Tensor,
    paired: bool,
) -> _Pairs:
    """The best exchanges among few columns of each row, one after another, each column once.

    `out` and `back` (rows, k) are the columns to drop and to take back; `paired` allows only those at one position
    to be exchanged with each other. A row stops at the first exchange that does not gain `least`.
    """
    count = out.shape[1]
    columns = torch.cat([out, back], 1)
    w, c = weight.gather(1, columns), pull.gather(1, columns)
    g = gram[columns[:, :, None], columns[:, None, :]]
    square = w.square() * g.diagonal(dim1=1, dim2=2)
    used = torch.cat([~keep.gather(1, out), keep.gather(1, back)], 1)  # also what is no candidate at all
    crossed = 2 * w[:, :count, None] * w[:, None, count:] * g[:, :count, count:]
    if paired:
        crossed = crossed - torch.full((count, count), torch.inf).fill_diagonal_(0)
    every = torch.arange(len(w))
    made: list[torch.Tensor] = []
    chosen: list[torch.Tensor] = []
    for _ in range(count):
        costs = square + 2 * w * c * _signs(count)
        costs = costs.masked_fill(used, torch.inf)
        best, at = (costs[:, :count, None] + costs[:, None, count:] - crossed).flatten(1).min(1)
        do = best < -least
        if not do.any():
            break
        o, b = at // count, count + at % count
        made.append(do)
        chosen.append(torch.stack([columns[every, o], columns[every, b]]))
        c = c + (w[every, o, None] * g[every, o] - w[every, b, None] * g[every, b]) * do[:, None]
        used[every[do], o[do]] = True
        used[every[do], b[do]] = True
        least = torch.where(do, least, torch.inf)
    if not made:
        nothing = torch.empty(len(w), 0, dtype=torch.long)
        return _Pairs(nothing, nothing, nothing.bool())
    columns_of_pairs = torch.stack(chosen, 2)
    return _Pairs(columns_of_pairs[0], columns_of_pairs[1], torch.stack(made, 1))


def _signs(count: int) -> torch.Tensor:
    """Dropping adds its share to the error, taking back removes it."""
    return torch.cat([torch.ones(count), -torch.ones(count)])


def _best_of_groups(
    weight: torch.Tensor, gram: torch.Tensor, dropping: torch.Tensor, keeping: torch.Tensor, m: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best exchange inside each group of m columns, for the `count` groups where it gains most."""
    rows, groups = len(weight), weight.shape[1] // m
    inside = torch.arange(groups * m).view(groups, m)
    blocks = gram[inside[:, :, None], inside[:, None, :]]
    w, out, back = (x[:, : groups * m].view(rows, groups, m) for x in (weight, dropping, keeping))
    gains = out[..., :, None] + back[..., None, :] - 2 * w[..., :, None] * w[..., None, :] * blocks
    best, at = gains.flatten(2).min(2)
    chosen = _lowest(best, count)
    at = at.gather(1, chosen)
    return chosen * m + at // m, chosen * m + at % m


def _pull(
    weight: torch.Tensor, keep: torch.Tensor, gram: torch.Tensor, gap: torch.Tensor | None = None
) -> torch.Tensor:
    """c = r G + b of every row."""
    pull = weight.masked_fill(keep, 0) @ gram
    return pull if gap is None else pull.add_(gap)


def _error(weight: torch.Tensor, keep: torch.Tensor, pull: torch.Tensor, gap: torch.Tensor | None) -> torch.Tensor:
    """r G r^T + 2 r b^T of every row, from c."""
    return ((pull if gap is None else pull + gap) * weight).masked_fill(keep, 0).sum(1)


def _lowest(costs: torch.Tensor, count: int) -> torch.Tensor:
    return costs.topk(min(count, costs.shape[1]), dim=1, largest=False).indices


def decide_toward_dense(weight: torch.Tensor, target: Target, sparsity: Sparsity, part: Part) -> torch.Tensor:
    """The same exchanges, of the error against what the dense model puts out there."""
    return exchange(weight, target.inputs.products.to(weight.device), sparsity, gap=target.gap).keep


SWAPS = Score(
    "exchanges from Wanda's mask that lower the output error (arXiv 2512.10922)", ClippedGram, decide, openings=4096
)
PURSUIT = Score(
    "exchanges from Wanda's mask that bring the output toward the dense model's",
    DenseTarget,
    decide_toward_dense,
    openings=4096,
)
