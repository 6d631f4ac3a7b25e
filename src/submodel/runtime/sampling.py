"""The next token from logits: temperature, then top-k, then top-p, as transformers orders them."""

import torch

_NEAR = 16.0  # logits this far under the best together hold under vocabulary * e^-16 of the mass


def pick(
    logits: torch.Tensor, temperature: float, top_p: float, top_k: int, generator: torch.Generator | None = None
) -> int:
    """Sample a token id.

    Sorting a vocabulary of 150,000 for every token would cost more than the model; so only tokens near the best are
    looked at, unless these do not hold the nucleus.

    Args:
        logits: (vocabulary,).
        temperature: above 0.
        top_p: smallest set of tokens whose mass reaches it; 1 is off.
        top_k: so many best tokens; 0 is off.
        generator: gives one uniform number.
    """
    scores = logits.float().cpu() / temperature
    if top_k:
        best = scores.topk(min(top_k, len(scores)))
        ids, kept, total = best.indices, best.values, best.values.logsumexp(0)
    else:
        total = scores.logsumexp(0)
        ids = (scores > scores.max() - _NEAR).nonzero()[:, 0] if top_p < 1 else torch.arange(len(scores))
        kept = scores[ids]
        if top_p < 1 and (kept.logsumexp(0) - total).exp() < top_p:
            ids, kept = torch.arange(len(scores)), scores
        if top_p < 1:
            kept, order = kept.sort(descending=True, stable=True)
            ids = ids[order]
    mass = (kept - total).exp().cumsum(0)
    if top_p < 1:
        count = int((mass < top_p).sum()) + 1
        ids, mass = ids[:count], mass[:count]
    drawn = torch.rand((), generator=generator, dtype=torch.float32) * mass[-1]
    return int(ids[min(int((mass <= drawn).sum()), len(ids) - 1)])
