"""Fill-in-the-middle as families of models spell it: what is before, what is after, then what is between.

Most write the text before the gap first (arXiv 2207.14255, PSM); Codestral writes what comes after it first, and no
token before the middle. What a tokenizer has no tokens for, its model has not learned; the reverse cannot be told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spelling:
    """How one family of models writes a gap.

    Attributes:
        prefix, suffix: the tokens before the two texts.
        middle: the token before what is to be filled in; None if there is none.
        suffix_first: whether what comes after the gap stands first.
        written: how the tokens are written in a prompt of text, where they are not written as they are called.
    """

    prefix: str
    suffix: str
    middle: str | None
    suffix_first: bool = False
    written: tuple[str, str, str] | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        """All the tokens that the vocabulary must have."""
        return (self.prefix, self.suffix) if self.middle is None else (self.prefix, self.suffix, self.middle)

    def split(self, prompt: str) -> tuple[str, str, str, str] | None:
        """A prompt that is written so, in parts: what precedes the marks, the texts before and after the gap, and
        what the middle is said to begin with. None for any other prompt. The first mark of a kind counts.
        """
        prefix, suffix, middle = self.written or (self.prefix, self.suffix, self.middle)
        opening, between = (suffix, prefix) if self.suffix_first else (prefix, suffix)
        head, opens, rest = prompt.partition(opening)
        first, continues, second = rest.partition(between)
        tail = ""
        if middle is not None:
            second, closes, tail = second.partition(middle)
            continues = continues and closes
        if not opens or not continues:
            return None
        return (head, second, first, tail) if self.suffix_first else (head, first, second, tail)


SPELLINGS = (
    Spelling("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    Spelling("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    Spelling("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Spelling("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    Spelling("▁<PRE>", "▁<SUF>", "▁<MID>", written=("<PRE> ", " <SUF>", " <MID>")),  # Code Llama (arXiv 2308.12950)
    Spelling("[PREFIX]", "[SUFFIX]", None, suffix_first=True),  # Codestral
)


@dataclass(frozen=True)
class Marks:
    """A spelling's tokens in one vocabulary."""

    spelling: Spelling
    prefix: int
    suffix: int
    middle: int | None

    def around(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The tokens that the middle follows."""
        halves = [[self.prefix, *before], [self.suffix, *after]]
        first, second = reversed(halves) if self.spelling.suffix_first else halves
        return [*first, *second, *([] if self.middle is None else [self.middle])]


def marks_of(tokenizer: Any) -> Marks | None:
    """The spelling that a tokenizer has all tokens of, or that of the tokens that it names itself; None if neither."""
    known = tokenizer.get_vocab()
    spelling = next((one for one in SPELLINGS if set(one.tokens) <= set(known)), None)
    prefix, suffix, middle = (getattr(tokenizer, f"fim_{part}_token", None) for part in ("prefix", "suffix", "middle"))
    if spelling is None and prefix and suffix and middle:
        spelling = Spelling(prefix, suffix, middle)
    if spelling is None:
        return None
    middle = None if spelling.middle is None else known[spelling.middle]
    return Marks(spelling, known[spelling.prefix], known[spelling.suffix], middle)
