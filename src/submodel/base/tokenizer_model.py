"""How a tokenizer makes its tokens: which kinds are understood, and what a token is spelled with when it is not there.

Three kinds: BPE over bytes (GPT-2, Qwen, LLaMA 3, SmolLM, StarCoder, GPT-NeoX), BPE over characters with bytes for
those that it lacks (SentencePiece: LLaMA 2, CodeLlama, Mistral, Gemma), and Unigram (T5, XGLM). All else is refused.

BPE joins, of all neighbours in a word, the pair whose rule comes first, until no rule fits. Inside the span of a token
that is there in the end no other rule was ever applied than those that make it out of its letters alone. So a token has
one tree of parts, whatever stands beside it, and a vocabulary that has all parts of its tokens makes of any text the
same tokens as a larger one, as long as the larger one uses no others.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

from submodel.errors import SubmodelError

BYTE_LEVEL, BYTE_FALLBACK, UNIGRAM = "byte-level BPE", "BPE with byte fallback", "Unigram"
SPACE = "▁"
"""How SentencePiece writes a space."""


class TokenizerModel:
    """The rules by which a tokenizer makes tokens; nothing of the model's weights.

    Args:
        document: a tokenizer.json.
        reference: what errors call it.

    Attributes:
        kind: BYTE_LEVEL, BYTE_FALLBACK or UNIGRAM.
        document: the tokenizer.json.
        ids: token -> id, of the tokens that text is cut into; added ones may be among them.
        added: id -> its entry, of the tokens that are looked for in a text before all else.

    Raises:
        SubmodelError: a kind that is not understood.
    """

    def __init__(self, document: Mapping[str, Any], reference: str):
        self.document = document
        self.kind = _kind(document, reference)
        self._model: Mapping[str, Any] = document["model"]
        if self.kind == UNIGRAM:
            self.ids: dict[str, int] = {token: at for at, (token, _) in enumerate(self._model["vocab"])}
        else:
            self.ids = dict(self._model["vocab"])
        self.added: dict[int, Mapping[str, Any]] = {entry["id"]: entry for entry in document.get("added_tokens") or ()}
        self._parts: dict[int, tuple[int, ...]] = {}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Id -> token, the added ones as they are written in a text."""
        return {**{at: token for token, at in self.ids.items()}, **{at: e["content"] for at, e in self.added.items()}}

    @cached_property
    def bytes(self) -> dict[int, int]:
        """Byte -> the token that stands for it by itself; those that there are."""
        if self.kind == BYTE_LEVEL:
            return {byte: self.ids[letter] for letter, byte in _LETTERS.items() if letter in self.ids}
        names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        return {byte: self.ids[name] for byte, name in names.items() if name in self.ids}

    @cached_property
    def atoms(self) -> frozenset[int]:
        """Tokens that nothing else can spell: bytes, the space, what an unknown character becomes; without tokens for
        bytes also every character. Of Unigram always every character, since its pieces match text such as `<0xE9>`,
        which would make a neighbour in bytes unreadable; and the lowest score, which that of unknown characters hangs
        on."""
        atoms = set(self.bytes.values())
        atoms |= {self.ids[token] for token in (self._model.get("unk_token"), SPACE) if token in self.ids}
        if self.kind == UNIGRAM:
            atoms |= {self._model["unk_id"]} if self._model.get("unk_id") is not None else set()
            atoms.add(min(self.ids.values(), key=lambda at: self._model["vocab"][at][1]))
        if self.kind == UNIGRAM or (len(self.bytes) < 256 and self.kind != BYTE_LEVEL):
            atoms |= {at for token, at in self.ids.items() if len(token) == 1}
        return frozenset(atoms)

    def size_bytes(self, token: int) -> int:
        """How many bytes of text a token stands for; none for a special token and for a row without a token."""
        if token in self.added:
            return 0 if self.added[token]["special"] else len(self.added[token]["content"].encode())
        text = self.tokens.get(token, "")
        if self.kind == BYTE_LEVEL:
            return len(text)
        return 1 if token in self._byte_tokens else len(text.replace(SPACE, " ").encode())

    def parts(self, token: int) -> tuple[int, ...]:
        """The tokens that spell a token which is not there; none for an atom and for an added token.

        Of BPE these are the two that the last rule joins, of Unigram the best way to cut it in other tokens; of a
        single character its bytes.
        """
        if token not in self._parts:
            self._parts[token] = self._find_parts(token)
        return self._parts[token]

    def spelled(self, token: int, is_kept: Callable[[int], bool]) -> tuple[int, ...]:
        """A token in tokens that are kept: itself, or its parts, and theirs, until all are kept."""
        if is_kept(token) or not (parts := self.parts(token)):
            return (token,)
        return tuple(piece for part in parts for piece in self.spelled(part, is_kept))

    def with_parts(self, tokens: Iterator[int] | set[int] | frozenset[int]) -> set[int]:
        """Tokens, and all tokens that BPE makes on its way to them; Unigram makes none on its way."""
        closed: set[int] = set()
        waiting = list(tokens)
        while waiting:
            token = waiting.pop()
            if token not in closed:
                closed.add(token)
                waiting += self.parts(token) if self.kind != UNIGRAM else ()
        return closed

    @cached_property
    def _byte_tokens(self) -> frozenset[int]:
        return frozenset(self.bytes.values())

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        """Pair -> place of its rule."""
        pairs = (tuple(rule.split(" ", 1)) if isinstance(rule, str) else tuple(rule) for rule in self._model["merges"])
        ranks: dict[tuple[str, str], int] = {}
        for rank, (left, right) in enumerate(pairs):
            ranks[left, right] = rank  # of a rule that is there twice the last counts, as in the tokenizers library
        return ranks

    @cached_property
    def _rules(self) -> dict[str, list[tuple[str, str]]]:
        """Token -> the pairs that make it."""
        rules: dict[str, list[tuple[str, str]]] = {}
        for left, right in self._ranks:
            rules.setdefault(left + right, []).append((left, right))
        return rules

    def _find_parts(self, token: int) -> tuple[int, ...]:
        text = self.tokens.get(token, "")
        if token in self.atoms or token in self.added or not text:
            return ()
        if len(text) == 1:
            return self._in_bytes(text)
        if self.kind == UNIGRAM:
            return self._cut(text)
        pairs = self._rules.get(text, [])
        if len(pairs) == 1:  # what makes it, if anything does: no word can end up with it by another way
            return tuple(self.ids[part] for part in pairs[0])
        joined, symbols = _join(text, self._ranks)
        symbols = list(joined) if joined is not None else symbols
        return tuple(piece for s in symbols for piece in ((self.ids[s],) if s in self.ids else self._in_bytes(s)))

    def _in_bytes(self, text: str) -> tuple[int, ...]:
        return tuple(self.bytes[byte] for byte in text.encode() if byte in self.bytes)

    def _cut(self, text: str) -> tuple[int, ...]:
        """The best way to cut a token of Unigram into others."""
        scores = self._model["vocab"]
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for end in range(1, len(text) + 1):
            choices: list[tuple[float, tuple[int, ...]]] = []
            for start in range(end):
                piece, (score, before) = text[start:end], best[start]
                if (at := self.ids.get(piece)) is not None and piece != text:
                    choices.append((score + scores[at][1], (*before, at)))
                elif end - start == 1:
                    choices.append((score - 1e4, (*before, *self._in_bytes(piece))))
            best.append(max(choices, key=lambda choice: choice[0], default=(-1e9, ())))
        return best[-1][1]


def tokenizer_model(tokenizer: Any, reference: str) -> TokenizerModel:
    """The rules of a tokenizer of transformers. Raises SubmodelError for a kind that is not understood."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SubmodelError(
            f"{reference}: its tokenizer is {type(tokenizer).__name__}, which has no tokenizer.json: a vocabulary can "
            "be chosen for BPE and Unigram in a tokenizer.json"
        )
    return TokenizerModel(json.loads(backend.to_str()), reference)


def _kind(document: Mapping[str, Any], reference: str) -> str:
    model = document["model"]
    kind, why = model.get("type"), ""
    if kind == "BPE":
        byte_level = "ByteLevel" in {*_types(document.get("pre_tokenizer")), *_types(document.get("normalizer"))}
        odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        why = next((f" with {name} {model[name]!r}" for name in odd if model.get(name)), "")
        if byte_level and "ByteLevel" in _types(document.get("decoder")) and not why:
            return BYTE_LEVEL
        if model.get("byte_fallback") and not byte_level and not why:
            return BYTE_FALLBACK
        why = why or " over characters, without tokens for bytes"
    elif kind == "Unigram":
        return UNIGRAM
    raise SubmodelError(
        f"{reference}: its tokenizer is {kind}{why}: a vocabulary can be chosen for {BYTE_LEVEL}, {BYTE_FALLBACK} and "
        f"{UNIGRAM}: leave --vocab out"
    )


def _types(node: Any) -> Iterator[str]:
    """The types of a part of a tokenizer.json and of what it is made of."""
    if isinstance(node, Mapping):
        yield str(node.get("type"))
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for value in node:
            yield from _types(value)


def _join(text: str, ranks: Mapping[tuple[str, str], int]) -> tuple[tuple[str, str] | None, list[str]]:
    """Join a word's letters by the rules: the last pair if that makes the whole word, and what is there in the end."""
    symbols = list(text)
    last: tuple[str, str] | None = None
    while len(symbols) > 1:
        pairs = [(ranks.get(pair, len(ranks)), at) for at, pair in enumerate(zip(symbols, symbols[1:], strict=False))]
        rank, at = min(pairs)
        if rank == len(ranks):
            return None, symbols
        last = symbols[at], symbols[at + 1]
        symbols[at : at + 2] = ["".join(last)]
    return last, symbols


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with: printable ones stand for themselves, the others follow."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(others)}


_LETTERS = _byte_letters()
