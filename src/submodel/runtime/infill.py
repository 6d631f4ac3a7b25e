"""Prompts whose middle is to be filled in, in the tokens that the base knows for it."""

from typing import Any

from submodel.calibration.middle import marks_of

# what a model writes when the middle is done
_AFTER = ("<|fim_pad|>", "<|endoftext|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<file_sep>", "▁<EOT>")
_MARK = "☺"  # what SentencePiece puts before a text, it puts before this


class Infill:
    """Writes such prompts for one tokenizer.

    Attributes:
        ends: tokens that end a middle beside the model's own; none where there are no tokens for it.
        spaced: whether the tokenizer begins a text with a space.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._marks = marks_of(tokenizer)
        known = tokenizer.get_vocab() if self._marks else {}
        fim = self._marks.spelling.tokens if self._marks else ()
        self.ends = frozenset(known[token] for token in fim + _AFTER if token in known)
        self._ids = frozenset(known[token] for token in fim)
        opening = tokenizer("x")["input_ids"][:1]
        self._opening = opening if opening == [tokenizer.bos_token_id] else []
        first = self._encode("x")[0]
        self.spaced = tokenizer.convert_ids_to_tokens(first).startswith("▁")

    def __bool__(self) -> bool:
        """Whether the tokenizer has tokens for it."""
        return self._marks is not None

    def is_in(self, ids: list[int]) -> bool:
        """Whether token ids hold a mark of it."""
        return not self._ids.isdisjoint(ids)

    def split(self, prompt: str) -> tuple[str, str, str, str] | None:
        """A prompt of text that is written so, in parts (see `Spelling.split`)."""
        return self._marks.spelling.split(prompt) if self._marks else None

    def around(self, before: str, after: str, head: str = "", tail: str = "") -> list[int]:
        """The tokens that the middle follows.

        Args:
            before, after: the texts on its two sides.
            head: what precedes the marks.
            tail: what the middle begins with.
        """
        assert self._marks is not None
        around = self._marks.around(self._encode(before), self._encode_within(after))
        return [*self._opening, *self._encode(head), *around, *self._encode_within(tail)]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _encode_within(self, text: str) -> list[int]:
        """Token ids of a text that goes on where another ended: without the space that some tokenizers begin with."""
        if not self.spaced:
            return self._encode(text)
        return self._encode(_MARK + text)[len(self._encode(_MARK)) :]
