"""What moves a request's logits before its next token is picked: penalties, a bias, a grammar.

In the order of transformers and of OpenAI: the repetition penalty scales, presence and frequency subtract, the bias
adds; then the grammar forbids.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from submodel.runtime.grammar import Grammar


@dataclass(frozen=True)
class Processors:
    """How a request's logits are moved.

    Attributes:
        repetition: above 1 makes tokens of the prompt and of the answer less likely (arXiv 1909.05858).
        presence, frequency: subtracted once, and for every time, that a token is in the answer.
        bias: (token, what is added to its logit).
        grammar: what the answer's text must be.
    """

    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    grammar: Grammar | None = None

    def __bool__(self) -> bool:
        """Whether anything is moved."""
        return bool(self.repetition != 1 or self.presence or self.frequency or self.bias or self.grammar)


class Processor:
    """Moves the logits of one continuation.

    Args:
        processors: how.
        prompt: what it continues.
    """

    def __init__(self, processors: Processors, prompt: Sequence[int]):
        self._processors, self._prompt = processors, prompt
        self._counts: torch.Tensor | None = None  # (vocabulary,): how often each token is in the answer
        self._seen: torch.Tensor | None = None  # (vocabulary,): whether it is there or in the prompt
        self._matcher = processors.grammar.matcher() if processors.grammar else None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """Moved logits (vocabulary,) in float32; what is forbidden is minus infinity."""
        given, moved = self._processors, logits.float().clone()
        if self._counts is None or self._seen is None:
            self._counts, self._seen = torch.zeros_like(moved), torch.zeros_like(moved, dtype=torch.bool)
            self._seen[torch.tensor(self._prompt, device=moved.device)] = True
        if given.repetition != 1:
            scaled = torch.where(moved < 0, moved * given.repetition, moved / given.repetition)
            moved = torch.where(self._seen, scaled, moved)
        if given.presence or given.frequency:
            moved -= given.frequency * self._counts + given.presence * (self._counts > 0)
        for token, bias in given.bias:
            moved[token] += bias
        return self._matcher.mask(moved) if self._matcher else moved

    def take(self, token: int) -> None:
        """The token that was picked."""
        assert self._counts is not None and self._seen is not None
        self._counts[token] += 1
        self._seen[token] = True
        if self._matcher:
            self._matcher.take(token)
