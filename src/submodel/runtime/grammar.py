"""Answers that keep to a grammar: a JSON schema or a tool's call, by llguidance on the model's own vocabulary.

Before each token, the tokens that the grammar allows are computed from what has been written; the others' logits become
minus infinity. Once the text is complete, only tokens that end a text are allowed.
"""

import json
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers

from submodel.errors import SubmodelError

# JSON as models write it on one line; with free white space a small model may write nothing else
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """A grammar that compiled, for one vocabulary. Make it with `Grammars`."""

    def __init__(self, matcher: Any, eos: int, ends: frozenset[int]):
        self._matcher, self._eos, self._ends = matcher, eos, ends

    def matcher(self) -> "Matcher":
        """For one continuation, at its beginning."""
        return Matcher(self._matcher.deep_copy(), self._eos, self._ends)


class Matcher:
    """Where one continuation is in its grammar."""

    def __init__(self, matcher: Any, eos: int, ends: frozenset[int]):
        self._matcher, self._eos, self._ends = matcher, eos, ends

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocabulary,), in place, with minus infinity for what may not come next."""
        bias = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8)
        allowed = np.zeros(len(logits), dtype=bool)  # a model may have more rows than there are tokens
        allowed[: len(bias)] = bias[: len(logits)] > 0
        if allowed[self._eos]:
            allowed[[end for end in self._ends if end < len(logits)]] = True
        if not allowed.any():
            raise SubmodelError(f"the grammar allows no token: {_first_line(self._matcher.get_error())}")
        masked = logits.masked_fill_(torch.from_numpy(~allowed).to(logits.device), float("-inf"))
        if not masked.isfinite().any():
            raise SubmodelError("the grammar allows only tokens that the model's vocabulary lacks")
        return masked

    def take(self, token: int) -> None:
        """The token that was picked."""
        if token not in self._ends and not self._matcher.consume_token(token):
            raise SubmodelError(f"the grammar does not go on: {_first_line(self._matcher.get_error())}")


class Grammars:
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: of the model.
        ends: tokens that end a text of the model.

    Raises:
        SubmodelError: llguidance is not there, or cannot use this tokenizer.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int]):
        try:
            import llguidance
            import llguidance.hf
        except ImportError as error:
            raise SubmodelError("a grammar needs llguidance: pip install 'submodel[serve]'") from error
        if not ends:
            raise SubmodelError("a grammar needs a token that ends a text, and this base has none")
        self._kind = llguidance.LLMatcher
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self._eos, self._ends = min(ends), ends
        try:
            self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=self._eos)
        except Exception as error:  # whatever it does not know of a tokenizer
            raise SubmodelError(f"no grammar over this base's tokenizer: {error}") from error

    @cached_property
    def letters(self) -> tuple[int, ...]:
        """Tokens of single bytes, in which any text can be spelled."""
        known = self._vocabulary
        names = [*pre_tokenizers.ByteLevel.alphabet(), *(f"<0x{byte:02X}>" for byte in range(256))]
        return tuple(sorted(known[name] for name in names if name in known)) + tuple(sorted(self._ends))

    def json(self, schema: dict[str, Any]) -> Grammar:
        """A JSON document that a schema allows. Raises SubmodelError for a schema that is wrong or not supported."""
        return self.lark(f"start: {json_rule(schema)}")

    def lark(self, text: str) -> Grammar:
        """A grammar in llguidance's language. Raises SubmodelError for one that does not compile."""
        matcher = self._kind(self._tokenizer, self._kind.grammar_from_lark(text), log_level=0)
        tried = matcher.deep_copy()
        tried.compute_logit_bias()  # one that is too large shows when it is first used
        if tried.is_error():
            raise SubmodelError(_first_line(tried.get_error()))
        return Grammar(matcher, self._eos, self._ends)


def _first_line(error: str) -> str:
    """The rest of an error shows what the parser was at."""
    return error.strip().partition("\n")[0]


def json_rule(schema: dict[str, Any]) -> str:
    """A schema as a part of a grammar."""
    return "%json " + json.dumps({**schema, "x-guidance": _JSON})
