"""How well models fit a repository: perplexity on its held-out files, each against the first on the same windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from submodel.calibration import read_repository
from submodel.errors import SubmodelError
from submodel.runtime import load
from submodel.tasks.perplexity import (
    Perplexity,
    as_much_as_there_is,
    from_losses,
    paired_ratio,
    refuse_calibrated_rows,
    window_losses,
)
from submodel.tasks.seen_code import seen_elsewhere

MOST_TOKENS = 50_000
"""Held-out tokens that a comparison is made on by default: fewer decide nothing."""


def tokens_to_compare(calibrated_on: int) -> int:
    """Held-out tokens for a comparison after an extraction of so many: as many, and no more than decide it."""
    return min(MOST_TOKENS, calibrated_on)


@dataclass(frozen=True)
class Fit:
    """One model on a repository's held-out files.

    Attributes:
        model: its reference.
        perplexity: with its 95% interval over windows.
        ratio, low, high: its perplexity over the first model's, with a 95% interval over the same windows' differences.
    """

    model: str
    perplexity: Perplexity
    ratio: float
    low: float
    high: float

    @property
    def line(self) -> str:
        """One line of a report."""
        value = f"{self.model}: perplexity {self.perplexity.value:.3f}"
        if self.low == self.high:
            return value
        part, low, high = (100 * (x - 1) for x in (self.ratio, self.low, self.high))
        verdict = "" if low > 0 or high < 0 else ", no difference that this text shows"
        return f"{value}, {part:+.1f}% [{low:+.1f}, {high:+.1f}]{verdict}"


def fit(
    models: Sequence[str],
    repository: str,
    *,
    tokens: int = MOST_TOKENS,
    seq_len: int = 1024,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    data_dir: Path | None = None,
    say: Callable[[str], Any] = lambda line: None,
    progress: Callable[[str, int, int], Any] = lambda what, done, total: None,
) -> list[Fit]:
    """Compare models on the held-out files of `repository`, PATH[:LANGUAGE].

    Args:
        models: anything that `load` opens, of one tokenizer; the first is what the others are measured against.
        tokens: of held-out text at most.
        seq_len: tokens a window.
        data_dir: where named sets lie now, if a model was calibrated on one; where they lay then if None.
        say: called with a line before each model is measured, and where one has seen code of the repository.

    Raises:
        SubmodelError: a model that is not there, has other tokens or was calibrated on these rows, or too little
            held-out text.
    """
    fits: list[Fit] = []
    first, ids = np.empty(0), torch.empty(0)
    opened: dict[str, Any] = {}
    text = read_repository(repository, repository, "held-out")
    for reference in models:
        loaded = load(reference, dtype=dtype, device=device, trust_remote_code=trust_remote_code, opened=opened)
        samples = as_much_as_there_is(text, loaded.tokenizer, tokens, seq_len)
        if fits and not torch.equal(samples.ids, ids):
            raise SubmodelError(f"{reference}: its tokens are not those of {models[0]}: compare models of one base")
        ids = samples.ids
        refuse_calibrated_rows(loaded, samples, text)
        if not fits:
            names = ", ".join(models)
            say(f"measuring {len(models)} models on {ids.numel():,} held-out tokens of {repository}: {names}")
        if line := seen_elsewhere(loaded, text, data_dir):
            say(line)
        done = 0

        def count(tokens_seen: int, reference: str = reference, total: int = samples.ids.numel()) -> None:
            nonlocal done
            done += tokens_seen
            progress(f"{reference} on {repository}", done, total)

        losses = window_losses(loaded.model, samples, count)
        first = losses if not fits else first
        fits.append(Fit(reference, from_losses(losses, seq_len - 1), *paired_ratio(losses, first)))
        del loaded
    return fits
