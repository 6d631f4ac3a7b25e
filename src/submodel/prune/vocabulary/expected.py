"""What the model itself expects to say in a domain's text: the tokens that its text could have had as well.

Of a vocabulary of a hundred thousand most tokens are in no text of a few hundred thousand, and of those some come next.
The mean of the model's probabilities over text of the domain ranks them (docs/reference/vocabulary.md).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base.workers import Workers

_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache


def expected_uses(
    model: PreTrainedModel, windows: torch.Tensor, progress: Callable[[int], Any] = lambda tokens: None
) -> np.ndarray:
    """The mean probability of each row of the head over all places of windows (windows, tokens), float64 (rows,)."""

    def total(ids: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
        sums = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
        for at in range(0, len(logits), _LOGIT_ROWS):
            sums += logits[at : at + _LOGIT_ROWS].float().softmax(-1).sum(0, dtype=torch.float64)
        progress(len(ids))
        return sums.cpu()

    with Workers(str(model.device)) as workers:
        return torch.stack(workers.map(total, windows)).sum(0).numpy() / windows.numel()
