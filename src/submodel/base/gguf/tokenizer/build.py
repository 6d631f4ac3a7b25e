"""A file's tokenizer, as one of `transformers`: BPE over bytes ("gpt2") or SentencePiece's BPE ("llama").

A text becomes the tokens that llama.cpp makes of it with its special tokens parsed, and begins and ends as the file
says.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from submodel.base.gguf.tokenizer.templates import chat_templates
from submodel.base.gguf.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from submodel.base.gguf.tokenizer.words import DEFAULT, Rule, rule_named
from submodel.errors import SubmodelError

_PREFIX = "tokenizer.ggml."
_SPACE = "▁"  # what SentencePiece writes for a space
_READ = frozenset(
    {
        "model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges", "add_bos_token",
        "add_eos_token", "add_space_prefix", "add_sep_token",
    }
)  # fmt: skip
# keys that must not say anything else
_NEUTRAL: dict[str, Any] = {
    "remove_extra_whitespaces": False,
    "normalizer.lowercase": False,
    "normalizer.strip_accents": False,
    "suppress_tokens": [],
}
_NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FILL_IN = ("fim_prefix", "fim_suffix", "fim_middle")


def build_tokenizer(file: Path, fields: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer that a file's keys describe.

    Args:
        file: what errors name.
        fields: the file's keys.

    Raises:
        SubmodelError: a kind of tokenizer or a key that is not understood.
    """
    vocabulary = read_vocabulary(file, fields)
    _refuse_others(file, fields)
    spm = fields[f"{_PREFIX}model"] == "llama"
    rule = Rule((), begins=True) if spm else rule_named(fields.get(f"{_PREFIX}pre") or DEFAULT)
    begins = bool(fields.get(f"{_PREFIX}add_bos_token", rule.begins)) and "bos" in vocabulary.roles
    ends = bool(fields.get(f"{_PREFIX}add_eos_token", False)) and "eos" in vocabulary.roles
    if spm:
        tokenizer = _sentencepiece(vocabulary, bool(fields.get(f"{_PREFIX}add_space_prefix", True)))
    else:
        tokenizer = _bpe(vocabulary, rule, fields.get(f"{_PREFIX}merges") or [])
    _add_tokens(tokenizer, vocabulary, _strips_right(fields))
    named: dict[str, Any] = {f"{role}_token": text for role in _NAMED if (text := vocabulary.text(role)) is not None}
    fill_in = {f"{role}_token": text for role in _FILL_IN if (text := vocabulary.text(role)) is not None}
    if fill_in:
        named["extra_special_tokens"] = fill_in
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        name_or_path=str(file),
        add_bos_token=begins,
        add_eos_token=ends,
        clean_up_tokenization_spaces=False,
        chat_template=chat_templates(fields),
        **named,
    )


def _refuse_others(file: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        name = key.removeprefix(_PREFIX)
        if name == key or name in _READ or name.endswith("_token_id"):
            continue
        if name not in _NEUTRAL or value != _NEUTRAL[name]:
            raise SubmodelError(
                f"{file}: {key} is {str(value)[:40]}: a key that is not understood: give the model's safetensors "
                "directory"
            )


def _strips_right(fields: Mapping[str, Any]) -> bool:
    """Whether special tokens take the spaces that follow them, which no key says: Phi-3 is known by its name."""
    name = str(fields.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _known(vocabulary: Vocabulary) -> dict[str, int]:
    """The ids that a text may have."""
    tokens = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    return {token: i for i, (token, kind) in enumerate(tokens) if kind != UNUSED}


def _bpe(vocabulary: Vocabulary, rule: Rule, merges: list[Any]) -> Tokenizer:
    if not merges:
        raise SubmodelError(f"{vocabulary.file}: it has no tokenizer.ggml.merges: convert the model again")
    known = _known(vocabulary)
    pairs = [_pair(vocabulary.file, merge) for merge in merges]
    unread = next((a + b for a, b in pairs if not {a, b, a + b} <= known.keys()), None)
    if unread is not None:
        raise SubmodelError(f"{vocabulary.file}: a merge makes {unread!r}, which is no token: convert the model again")
    model = models.BPE(vocab=known, merges=pairs, ignore_merges=rule.whole_words, byte_fallback=not rule.letters)
    tokenizer = Tokenizer(model)
    words: list[Any] = [pre_tokenizers.Split(Regex(split), "isolated") for split in rule.splits]
    if rule.letters:
        words.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer.decoder = decoders.ByteLevel()
    else:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    return tokenizer


def _pair(file: Path, merge: Any) -> tuple[str, str]:
    # the first part may begin with a space
    first, space, second = merge[1:].partition(" ") if isinstance(merge, str) else ("", "", "")
    if not space or not second:
        raise SubmodelError(f"{file}: {merge!r} in tokenizer.ggml.merges is no pair: convert the model again")
    return merge[0] + first, second


def _sentencepiece(vocabulary: Vocabulary, prefix: bool) -> Tokenizer:
    if not vocabulary.scores:
        raise SubmodelError(f"{vocabulary.file}: it has no tokenizer.ggml.scores: convert the model again")
    model = models.BPE(
        vocab=_known(vocabulary),
        merges=_merges(vocabulary),
        unk_token=vocabulary.text("unk"),
        fuse_unk=True,
        byte_fallback=bool(vocabulary.of_kind(BYTE)),
    )
    tokenizer = Tokenizer(model)
    spaces: list[Any] = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*spaces, normalizers.Replace(" ", _SPACE)])
    decoding: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*decoding, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return tokenizer


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The pairs that make a token, the best score first: SentencePiece joins whatever makes the best token.

    Of equal scores the lower id is the better: some converters write one score for all.
    """
    ids = {vocabulary.tokens[i]: i for i in vocabulary.of_kind(NORMAL)}
    ordered = sorted(ids.values(), key=lambda i: (-vocabulary.scores[i], i))
    return [pair for i in ordered for pair in _halves(vocabulary.tokens[i], ids)]


def _halves(token: str, ids: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
    return sorted(
        (pair for pair in pairs if pair[0] in ids and pair[1] in ids), key=lambda pair: (ids[pair[0]], ids[pair[1]])
    )


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary, strips: bool) -> None:
    """Tokens that are found in a text before anything else is done with it."""
    plain = {"<unk>", "<s>", "<|endoftext|>"}
    tokens: list[AddedToken] = []
    roles = set(vocabulary.roles.values())
    for i, (text, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) or (kind == NORMAL and i in roles):
            special = kind != USER_DEFINED
            rstrip = strips and text not in plain
            tokens.append(AddedToken(text, special=special, normalized=False, rstrip=rstrip))
    tokenizer.add_tokens(tokens)
