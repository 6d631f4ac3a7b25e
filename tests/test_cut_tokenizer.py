"""A cut tokenizer: every text comes back as from the base's, and with kept tokens alone it has the same tokens."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from submodel.base.tokenizer_model import BYTE_FALLBACK, BYTE_LEVEL, UNIGRAM, TokenizerModel, tokenizer_model
from submodel.errors import SubmodelError
from submodel.export.cut_tokenizer import cut_document
from submodel.prune.vocabulary.needed import needed
from tests import vocabularies

NAMES = [*vocabularies.TOKENIZERS]
TEXTS = [*vocabularies.EDGES, *vocabularies.CODE.values(), *vocabularies.random_texts(0, 250)]


def _rules(name: str) -> TokenizerModel:
    return tokenizer_model(vocabularies.fast(name), name)


def _cut(name: str, share: float, seed: int = 0) -> tuple[TokenizerModel, Tokenizer, Tokenizer, dict[int, int]]:
    """The rules, the base's tokenizer and a cut one with about a share of its tokens, chosen by chance."""
    rules = _rules(name)
    tokens = [*rules.tokens]
    chosen = set(random.Random(seed).sample(tokens, int(share * len(tokens))))
    always = needed(vocabularies.fast(name), rules, [], len(tokens))
    ids = {old: new for new, old in enumerate(sorted(rules.with_parts(chosen | always)))}
    cut = cut_document(rules, rules.document, ids)
    base = Tokenizer.from_str(json.dumps(rules.document))
    return rules, base, Tokenizer.from_str(json.dumps(cut)), ids


def test_kinds():
    expected = dict.fromkeys(["gpt2", "smollm", "qwen", "llama3", "tiktoken"], BYTE_LEVEL)
    expected |= dict.fromkeys(["llama2", "mistral", "gemma"], BYTE_FALLBACK)
    assert {name: _rules(name).kind for name in NAMES} == {**expected, "unigram": UNIGRAM, "unigram-bytes": UNIGRAM}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_encoded_and_decoded_as_by_the_base(name: str, share: float):
    _, base, cut, ids = _cut(name, share)
    assert len(ids) < len(base.get_vocab())
    same = 0
    for text in TEXTS:
        before, after = base.encode(text, add_special_tokens=False).ids, cut.encode(text, add_special_tokens=False).ids
        for skip in (True, False):
            assert cut.decode(after, skip_special_tokens=skip) == base.decode(before, skip_special_tokens=skip), text
        if all(token in ids for token in before):
            assert after == [ids[token] for token in before], text
            same += 1
        both = (base.encode(text, text), cut.encode(text, text))  # what the post-processor puts around
        assert base.decode(both[0].ids) == cut.decode(both[1].ids)
    assert same >= (20 if share else 3)


@pytest.mark.parametrize("name", NAMES)
def test_text_in_kept_tokens_keeps_them(name: str):
    """Of each text that a vocabulary was made for, the tokens are the same, with all others gone."""
    rules, base, _, _ = _cut(name, 0.0)
    always = needed(vocabularies.fast(name), rules, [], len(rules.tokens))
    for text in [*vocabularies.CODE.values(), *vocabularies.corpus()[:40:5]]:
        tokens = base.encode(text, add_special_tokens=False).ids
        ids = {old: new for new, old in enumerate(sorted(rules.with_parts({*tokens, *always})))}
        cut = Tokenizer.from_str(json.dumps(cut_document(rules, rules.document, ids)))
        assert cut.encode(text, add_special_tokens=False).ids == [ids[token] for token in tokens]


@pytest.mark.parametrize("name", NAMES)
def test_parts_spell_their_token(name: str):
    """Down to the bytes, the parts of every token say the same text."""
    rules = _rules(name)
    base = Tokenizer.from_str(json.dumps(rules.document))
    mark = base.encode("x", add_special_tokens=False).ids  # decoders strip a space where a text begins
    spelled = 0
    for token in rules.tokens:
        pieces = rules.spelled(token, lambda other: other in rules.atoms or other in rules.added)
        if pieces != (token,):
            spelled += 1
            assert base.decode([*mark, *pieces]) == base.decode([*mark, token]), rules.tokens[token]
            assert sum(map(rules.size_bytes, pieces)) == rules.size_bytes(token)
    assert spelled > 300


def _characters() -> Tokenizer:
    return Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))


def _suffixed() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    return tokenizer


REFUSED: dict[str, tuple[Callable[[], Tokenizer], str]] = {
    "WordPiece": (lambda: Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")), "WordPiece"),
    "WordLevel": (lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "WordLevel"),
    "characters": (_characters, "over characters"),
    "suffix": (_suffixed, "end_of_word_suffix"),
    "prefix": (
        lambda: Tokenizer(models.BPE({"a": 0}, [], continuing_subword_prefix="##")),
        "continuing_subword_prefix",
    ),
    "dropout": (lambda: Tokenizer(models.BPE({"a": 0}, [], dropout=0.1)), "dropout"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_is_not_understood_is_refused_in_a_line(kind: str):
    make, word = REFUSED[kind]
    with pytest.raises(SubmodelError, match=word) as refusal:
        TokenizerModel(json.loads(make().to_str()), "model")
    assert "\n" not in str(refusal.value)


def test_a_tokenizer_without_a_tokenizer_json_is_refused():
    with pytest.raises(SubmodelError, match="no tokenizer.json"):
        tokenizer_model(object(), "model")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_always_kept(name: str):
    tokenizer: Any = vocabularies.fast(name)
    rules = _rules(name)
    always = needed(tokenizer, rules, [{"eos_token_id": [40, 41], "bad_words_ids": [[42], [43]]}], 10_000)
    assert {*rules.added, 40, 41, 42, 43, *rules.atoms} <= always
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=True, return_dict=True)
    assert set(rendered["input_ids"]) <= always
    assert len(always) < 0.6 * len(rules.tokens)
    assert all(rules.parts(token) for token in rules.tokens if token not in always), "what has no spelling is kept"
