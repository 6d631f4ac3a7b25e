"""The check at the end of an extraction: what a sub-model loses on text of its domain that it has not read."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from submodel.base.models import Base
from submodel.calibration import Samples
from submodel.prune.gradients import machine_memory
from submodel.prune.mask import Masks
from submodel.runtime.load import masked_model
from submodel.tasks.perplexity import paired_ratio, window_losses

TOKENS = 4096  # short: it says what kind of loss to expect, `submodel eval` says how much
SEQ_LEN = 512


@dataclass(frozen=True)
class Check:
    """Perplexity on held-out text of the domain, the sub-model's and the base's on the same windows.

    Attributes:
        perplexity, base_perplexity: of either.
        ratio, low, high: of the two, with a 95% interval over the windows.
        tokens: that were predicted.
        sha256_tokens: digest of the text.
    """

    perplexity: float
    base_perplexity: float
    ratio: float
    low: float
    high: float
    tokens: int
    sha256_tokens: str

    @property
    def line(self) -> str:
        """For a person."""
        change, low, high = (100 * (ratio - 1) for ratio in (self.ratio, self.low, self.high))
        return (
            f"on {self.tokens:,} held-out tokens: perplexity {self.perplexity:.2f}, the base's "
            f"{self.base_perplexity:.2f} ({change:+.0f}%, between {low:+.0f}% and {high:+.0f}%)"
        )

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def fits_memory(base: Base) -> bool:
    """Whether the whole model, as it is stored, fits into this machine's memory beside what else runs."""
    return 1.25 * base.parameters * base.dtype.itemsize < machine_memory()


def check(
    base: Base,
    held_out: Mapping[str, Samples],
    masks: Mapping[str, Masks],
    device: str,
    progress: Callable[[int, int], Any] = lambda done, total: None,
) -> dict[str, Check]:
    """Measure sub-models against their base.

    Args:
        base: the base model; it is opened whole.
        held_out: domain -> packed text that its calibration has not read.
        masks: domain -> its masks.
        device: where to compute.
        progress: told tokens done and in all.
    """
    total = 2 * sum(samples.ids.numel() for samples in held_out.values())
    done = 0

    def count(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(done, total)

    with torch.inference_mode():
        dense = masked_model(base, {}, device=device)
        base_losses = {name: window_losses(dense, samples, count) for name, samples in held_out.items()}
        del dense
        result: dict[str, Check] = {}
        for name, samples in held_out.items():
            model = masked_model(base, masks[name], device=device)
            losses, against = window_losses(model, samples, count), base_losses[name]
            ratio, low, high = paired_ratio(losses, against)
            assert samples.provenance is not None
            result[name] = Check(
                perplexity=float(np.exp(losses.mean())),
                base_perplexity=float(np.exp(against.mean())),
                ratio=ratio,
                low=low,
                high=high,
                tokens=len(samples.ids) * (samples.ids.shape[1] - 1),
                sha256_tokens=samples.provenance.sha256_tokens,
            )
            del model
    return result
