"""Log-likelihoods of continuations after their contexts, such as the choices of a question.

They are those of lm_eval's `HFLM`, computed with less work: requests that follow one another and begin alike share
that beginning's keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from submodel.base.workers import Workers
from submodel.errors import SubmodelError

Finished = Callable[[int, Any], Any]
"""Called with (index of a request, its answer) as answers come, from any thread."""

_BATCH_TOKENS = {"cpu": 384}  # shared beginnings and continuations of one forward pass; others 8192
_SLACK = 3  # shared tokens that a question may give up to join a batch
_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache


@dataclass(frozen=True)
class _Scored:
    """A request: the tokens the model reads, and the continuation, which its last outputs predict."""

    index: int
    read: list[int]
    targets: list[int]

    @property
    def first(self) -> int:
        """Position of the first output that is scored."""
        return len(self.read) - len(self.targets)


@dataclass
class _Group:
    """Requests whose first `shared` tokens are the same; none of the outputs at these is scored."""

    members: list[_Scored] = field(default_factory=list)
    shared: int = 0


def loglikelihoods(
    model: Any, pairs: Sequence[tuple[list[int], list[int]]], limit: int, finished: Finished
) -> list[tuple[float, bool]]:
    """Log-likelihoods of continuations after their contexts, a batch at a time on every core.

    Args:
        model: a causal model of transformers.
        pairs: token ids of context and continuation, neither empty.
        limit: tokens that the model reads at most; the context is cut from the left.
        finished: called with (index, answer) as answers come, from any thread.

    Returns:
        Of each pair: sum of the continuation's log-probabilities in nats (float32), and whether every token of it is
        the model's most likely one.
    """
    scored = []
    for index, (context, continuation) in enumerate(pairs):
        if not 0 < len(continuation) <= limit:
            raise SubmodelError(f"a continuation of {len(continuation)} tokens: the model has {limit} positions")
        scored.append(_Scored(index, [*context, *continuation][-limit - 1 : -1], continuation))
    answers: list[tuple[float, bool]] = [(0.0, False)] * len(scored)

    def work(batch: list[_Group]) -> None:
        for index, answer in _score(model, batch):
            answers[index] = answer
            finished(index, answer)

    with Workers(str(model.device)) as workers:
        budget = _BATCH_TOKENS.get(model.device.type, 8192)
        workers.map(work, _batches(_groups(scored), budget))
    return answers


def _groups(scored: list[_Scored]) -> list[_Group]:
    """Neighbours that share at least half of what each of them reads."""
    groups: list[_Group] = []
    for request in scored:
        group = groups[-1] if groups else _Group()
        if group.members:
            shared = _common(group.members[0].read, request.read, min(group.shared, request.first))
            if 2 * shared >= max(len(request.read), *(len(m.read) for m in group.members)):
                group.members.append(request)
                group.shared = shared
                continue
        groups.append(_Group([request], request.first))
    for group in groups:
        if len(group.members) == 1:  # nothing to share: one pass over all of it
            group.shared = 0
    return groups


def _common(a: list[int], b: list[int], most: int) -> int:
    return next((at for at in range(most) if a[at] != b[at]), most)


def _batches(groups: list[_Group], budget: int) -> list[list[_Group]]:
    """Groups with beginnings of nearly one length (which need no padding), longest first."""
    batches: list[list[_Group]] = []
    room = 0
    for group in sorted(groups, key=lambda g: (g.shared, max(len(m.read) for m in g.members)), reverse=True):
        cost = group.shared + sum(len(m.read) - group.shared for m in group.members)
        near = bool(batches) and batches[-1][0].shared - group.shared <= _SLACK and group.shared > 0
        alike = bool(batches) and batches[-1][0].shared == group.shared
        if (near or alike) and cost <= room:
            batches[-1].append(group)
            room -= cost
        else:
            batches.append([group])
            room = budget - cost
    return batches


def _score(model: Any, batch: list[_Group]) -> Iterator[tuple[int, tuple[float, bool]]]:
    """Answers by index. Continuations are padded on the right, where nothing that is scored looks."""
    cut = min(group.shared for group in batch)
    owners = [at for at, group in enumerate(batch) for _ in group.members]
    members = [member for group in batch for member in group.members]
    cache = None
    if cut:
        beginnings = torch.tensor([group.members[0].read[:cut] for group in batch], device=model.device)
        cache = _repeat(
            getattr(model.base_model(input_ids=beginnings, use_cache=True), "past_key_values", None), owners
        )
    start = cut if cache is not None else 0
    width = max(len(member.read) for member in members) - start
    rest = torch.zeros(len(members), width, dtype=torch.long)
    for row, member in enumerate(members):
        rest[row, : len(member.read) - start] = torch.tensor(member.read[start:])
    options: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    logits = model(input_ids=rest.to(model.device), **options).logits
    for row, member in enumerate(members):
        scored = logits[row, member.first - start : len(member.read) - start]
        yield member.index, _answer(scored, torch.tensor(member.targets, device=model.device))


def _repeat(cache: Any, owners: list[int]) -> DynamicCache | None:
    """The cache with a row for each request; None if it is of a kind whose rows cannot be told apart."""
    if not isinstance(cache, DynamicCache) or any(
        type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    ):
        return None
    cache.batch_select_indices(torch.tensor(owners))
    return cache


def _answer(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, bool]:
    total, greedy = 0.0, True
    for at in range(0, len(targets), _LOGIT_ROWS):
        part, expected = logits[at : at + _LOGIT_ROWS].float(), targets[at : at + _LOGIT_ROWS]
        total -= float(F.cross_entropy(part, expected, reduction="sum"))
        greedy = greedy and bool((part.argmax(-1) == expected).all())
    return total, greedy
