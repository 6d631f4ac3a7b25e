"""A file's list of tokens, what kind each is of, and which have a role."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UNSET = (-1, 2**32 - 1)
_PREFIX = "tokenizer.ggml."
_DEFAULT_ROLES: dict[str, dict[str, int]] = {"gpt2": {}, "llama": {"unk": 0, "bos": 1, "eos": 2}}
# the key of a role, and what it was called before
_ROLES = {
    "bos": ("bos",),
    "eos": ("eos",),
    "eot": ("eot",),
    "eom": ("eom",),
    "unk": ("unknown",),
    "sep": ("seperator", "separator"),
    "pad": ("padding",),
    "cls": ("cls",),
    "mask": ("mask",),
    "fim_prefix": ("fim_pre", "prefix"),
    "fim_suffix": ("fim_suf", "suffix"),
    "fim_middle": ("fim_mid", "middle"),
    "fim_pad": ("fim_pad",),
    "fim_repo": ("fim_rep",),
    "fim_separator": ("fim_sep", "fsep"),
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file.

    Attributes:
        file: the file.
        tokens: the text of each, by id.
        kinds: NORMAL, CONTROL and so on, by id.
        scores: SentencePiece's scores by id; none where the file has none.
        roles: the ids of those that have a role: bos, eos, eot, eom, unk, pad and so on.
    """

    file: Path
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    scores: tuple[float, ...]
    roles: Mapping[str, int]

    def text(self, role: str) -> str | None:
        """The token of a role; None if there is none."""
        return self.tokens[self.roles[role]] if role in self.roles else None

    def of_kind(self, *kinds: int) -> list[int]:
        """The ids of all tokens of some kinds."""
        return [i for i, kind in enumerate(self.kinds) if kind in kinds]


def read_vocabulary(file: Path, fields: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary of a file, with the roles that its kind of tokenizer has by default.

    Raises SubmodelError for a kind that is not read.
    """
    kind = fields.get(f"{_PREFIX}model")
    if kind not in _DEFAULT_ROLES:
        said = "has no tokenizer" if kind in (None, "none", "no_vocab") else f"has a tokenizer of the kind {kind!r}"
        raise SubmodelError(
            f"{file}: it {said} (tokenizer.ggml.model): {' and '.join(sorted(_DEFAULT_ROLES))} are read: give the "
            "model's safetensors directory"
        )
    return _read(file, fields, _DEFAULT_ROLES[kind])


def _read(file: Path, fields: Mapping[str, Any], roles: Mapping[str, int]) -> Vocabulary:
    """The vocabulary of a file.

    Args:
        file: what errors name.
        fields: the file's keys.
        roles: the ids that roles have where the file does not say.

    Raises:
        SubmodelError: there is none, or it is damaged.
    """
    tokens = fields.get(f"{_PREFIX}tokens")
    if not isinstance(tokens, list) or not tokens:
        raise SubmodelError(f"{file}: it has no tokens (tokenizer.ggml.tokens): give the file of a whole model")
    if (damaged := next((i for i, token in enumerate(tokens) if not isinstance(token, str)), None)) is not None:
        raise SubmodelError(f"{file}: token {damaged} is no UTF-8 text: convert the model again")
    kinds = fields.get(f"{_PREFIX}token_type") or [NORMAL] * len(tokens)
    scores = fields.get(f"{_PREFIX}scores") or []
    if len(kinds) < len(tokens) or (scores and len(scores) < len(tokens)):
        raise SubmodelError(
            f"{file}: {len(tokens)} tokens, {len(kinds)} types and {len(scores)} scores: convert the model again"
        )
    known = {role: i for role, i in roles.items() if i < len(tokens)} | _roles(file, fields, len(tokens))
    kinds = [NORMAL if kind == UNUSED and i in known.values() else kind for i, kind in enumerate(kinds[: len(tokens)])]
    named: dict[str, int] = {}
    for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind != UNUSED and named.setdefault(token, i) != i:
            raise SubmodelError(f"{file}: token {token!r} has the ids {named[token]} and {i}: convert the model again")
    return Vocabulary(file, tuple(tokens), tuple(kinds), tuple(scores), known)


def _roles(file: Path, fields: Mapping[str, Any], count: int) -> dict[str, int]:
    result: dict[str, int] = {}
    for role, names in _ROLES.items():
        for name in names:
            given = fields.get(f"{_PREFIX}{name}_token_id")
            if given is None or given in _UNSET or role in result:
                continue
            if not 0 <= given < count:
                raise SubmodelError(
                    f"{file}: {_PREFIX}{name}_token_id is {given}, and there are {count} tokens: "
                    "convert the model again"
                )
            result[role] = given
    return result
