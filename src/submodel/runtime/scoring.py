"""Log-probabilities of tokens, in step with the text: given out when their text is, and not for text that is cut."""

from collections import deque
from dataclasses import dataclass, replace

import torch

_LEAST = -9999.0


@dataclass(frozen=True)
class Score:
    """Natural logarithms of a token's probability and of the best tokens', before penalties and temperature.

    Attributes:
        token: the one that was taken.
        logprob: of that token.
        best: (token, logprob), the most likely first.
        offset: characters of the text before that token's.
    """

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]
    offset: int = 0


def score(logits: torch.Tensor, token: int, best: int) -> Score:
    """Of a token that was taken from logits (vocabulary,), with the `best` most likely ones."""
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(min(best, len(logprobs)))
    likely = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    # a token that the model's vocabulary lacks has none: JSON cannot say so, and OpenAI writes -9999
    return Score(token, max(_LEAST, float(logprobs[token])), tuple(one for one in likely if one[1] > _LEAST))


class AlignedScores:
    """The scores of one text while it is written.

    A token belongs to the text that became certain with it; tokens that are parts of one character belong to that
    character, all of them.
    """

    def __init__(self, best: int):
        self._best = best
        self._waiting: list[Score] = []  # their text is not decoded yet
        self._decoded = 0  # characters
        self._scores: deque[tuple[int, Score]] = deque()  # the end of a token's text, and its score
        self._sum, self._count = 0.0, 0

    @property
    def mean(self) -> float:
        """Of the log-probabilities of all tokens so far, the last one included that is no text."""
        return self._sum / max(1, self._count)

    def add(self, logits: torch.Tensor, token: int, *, is_text: bool) -> None:
        """A token that was taken from logits (vocabulary,)."""
        taken = score(logits, token, self._best)
        self._sum += taken.logprob
        self._count += 1
        if is_text:
            self._waiting.append(taken)

    def shown(self, decoded: int, shown: int, *, ended: bool) -> tuple[Score, ...]:
        """The scores that are due.

        Args:
            decoded: characters that the tokens so far have made.
            shown: of these, what has been given out.
            ended: no more will be; tokens of which some text has been shown are due then.
        """
        if decoded > self._decoded or ended:
            start, self._decoded = self._decoded, decoded
            self._scores += [(decoded, replace(waiting, offset=start)) for waiting in self._waiting]
            self._waiting = []
        due = []
        while self._scores and (self._scores[0][0] <= shown or (ended and self._scores[0][1].offset < shown)):
            due.append(self._scores.popleft()[1])
        return tuple(due)
