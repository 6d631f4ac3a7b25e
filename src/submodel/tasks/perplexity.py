"""Perplexity: exp of the mean negative log-likelihood a token, over packed windows of held-out text.

A window of `seq_len` tokens predicts seq_len - 1 of them. The 95% interval is a bootstrap over whole windows
(blocks of text), since the tokens of one text are not independent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_utils import PreTrainedModel

from submodel.calibration import Samples
from submodel.workers import Workers

_RESAMPLES = 10_000
_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache; of all logits it would be the peak of memory


@dataclass(frozen=True)
class Perplexity:
    """A perplexity with its 95% interval over `tokens` predicted tokens."""

    value: float
    low: float
    high: float
    tokens: int


def perplexity(
    model: PreTrainedModel, samples: Samples, progress: Callable[[int], Any] = lambda tokens: None
) -> Perplexity:
    """Measure a model on packed samples, a window at a time on every core."""
    with Workers(str(model.device)) as workers:
        losses = workers.map(lambda window: _window_loss(model, window, progress), samples.ids)
    predicted = samples.ids.shape[1] - 1
    return from_losses(np.array(losses) / predicted, predicted)


def from_losses(nats: np.ndarray, predicted: int, seed: int = 0) -> Perplexity:
    """Mean nats a token of each window, `predicted` tokens a window -> perplexity with a bootstrap interval."""
    rng = np.random.default_rng(seed)
    means = nats[rng.integers(len(nats), size=(_RESAMPLES, len(nats)))].mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return Perplexity(float(np.exp(nats.mean())), float(low), float(high), len(nats) * predicted)


def _window_loss(model: PreTrainedModel, window: torch.Tensor, progress: Callable[[int], Any]) -> float:
    ids = window[None].to(model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    total = 0.0
    for at in range(0, len(logits), _LOGIT_ROWS):
        part = logits[at : at + _LOGIT_ROWS].float()
        total += float(F.cross_entropy(part, ids[0, at + 1 : at + 1 + len(part)], reduction="sum"))
    progress(len(window))
    return total
