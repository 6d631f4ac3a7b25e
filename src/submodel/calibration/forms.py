"""FORMS: what a document looks like to the model: raw text, or fill-in-the-middle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from submodel.calibration.documents import Document
from submodel.calibration.middle import marks_of
from submodel.errors import SubmodelError


@dataclass(frozen=True)
class Form:
    """How documents become tokens.

    Attributes:
        encode: a document -> its tokens.
        finish: a piece of them -> what the model sees; `extra` tokens longer at most.
        extra: see `finish`.
    """

    encode: Callable[[Document], list[int]]
    finish: Callable[[list[int], np.random.Generator], list[int]] = lambda tokens, rng: tokens
    extra: int = 0


def raw(tokenizer: Any) -> Form:
    """The text, ended by the end-of-sequence token."""

    def encode(document: Document) -> list[int]:
        ids = tokenizer(document.text, verbose=False)["input_ids"]
        if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
            ids = [*ids, tokenizer.eos_token_id]
        return ids

    return Form(encode)


def fill_in_the_middle(tokenizer: Any) -> Form:
    """Text cut at two places at random: what is before, what is after, then what is between.

    Pieces are cut first, so that each is whole; between tokens, not characters.

    Raises SubmodelError when the tokenizer has no tokens for it.
    """
    marks = marks_of(tokenizer)
    if marks is None:
        raise SubmodelError("form fim: the model has no fill-in-the-middle tokens: give --form raw")
    first, last = tokenizer.bos_token_id, tokenizer.eos_token_id

    def finish(tokens: list[int], rng: np.random.Generator) -> list[int]:
        opening = tokens[:1] if tokens[:1] == [first] else []
        text = tokens[len(opening) : -1 if tokens[-1] == last else None]
        at, to = sorted(int(cut) for cut in rng.integers(len(text) + 1, size=2))
        ending = [] if last is None else [last]
        return [*opening, *marks.around(text[:at], text[to:]), *text[at:to], *ending]

    return Form(raw(tokenizer).encode, finish, extra=4)


FORMS: dict[str, Callable[[Any], Form]] = {"raw": raw, "fim": fill_in_the_middle}
