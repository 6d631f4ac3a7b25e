"""Tokenizers of GGUF files: words by the name of the rule, SentencePiece, special tokens, ends, templates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from submodel.base.gguf.tokenizer.words import DEFAULT, RULES
from submodel.base.opening import open_base
from submodel.calibration.middle import marks_of
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.runtime.forward import end_tokens
from submodel.runtime.load import load
from tests import gguf_files
from tests.test_gguf_models import build

_TEXTS = (
    "Hello World's DON'T foo_bar(x)=12345 1234567 12 1 \n\n  \n\t x   y\r\n z  \n",
    "naïve ΑΒΓ привет 中文字符 日本語 한국어 … “q” — 。， $+<=>^~|` हिन्दी ١٢٣ ½",
    "HTTPServer camelCase iPhone15Pro 3.14e-10 0xFF    def f(self):\n        return x[0] + 10000\n",
    " leading and trailing   ",
)
_SPECIAL = ("<s>", "</s>", "<|im_end|>", "<PRE>", "<SUF>", "<MID>")


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


_GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
# the pre-tokenizers of models' own tokenizer.json
PUBLISHED: dict[str, list[Any]] = {
    "gpt-2": [_GPT2],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _GPT2],
    "starcoder": [pre_tokenizers.Digits(individual_digits=True), _GPT2],
    "falcon": [pre_tokenizers.Punctuation("contiguous"), _GPT2, _split("[0-9][0-9][0-9]")],
    "llama-bpe": [
        _split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        ),
        _BYTES,
    ],
    "qwen2": [
        _split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        ),
        _BYTES,
    ],
    "deepseek-coder": [
        _split(r"[\r\n]"),
        _split(r"\s?\p{L}+"),
        _split(r"\s?\p{P}+"),
        _split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
        pre_tokenizers.Digits(individual_digits=True),
        _BYTES,
    ],
}


def trained(words: list[Any] | None = None) -> PreTrainedTokenizerFast:
    """A small byte-level BPE whose merges go across words, so that another cut of a text gives other tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _BYTES
    pieces = [text[i : i + n] for text in _TEXTS for n in (3, 5, 8, 13) for i in range(0, len(text), 2)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words or [_GPT2])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model with tokenizer keys; those that are None are left out."""
    tokenizer = trained()
    model = build("llama", vocab_size=len(tokenizer))
    folder = tmp_path_factory.mktemp("gguf")
    ids = {f"{role}_token_id": tokenizer.convert_tokens_to_ids(f"{token}") for role, token in _ROLES.items()}

    def write(name: str = "model.gguf", pre: str = "gpt-2", **keys: Any) -> Path:
        said = gguf_files.bpe_keys(tokenizer, pre, **ids)
        said |= {key.replace("__", "."): value for key, value in keys.items()}
        said = {key: value for key, value in said.items() if value is not None}
        return gguf_files.write(folder / name, model, said)

    return write


_ROLES = {"bos": "<s>", "eos": "</s>"}


def _key(name: str) -> str:
    return f"tokenizer__ggml__{name}"


@pytest.mark.parametrize("pre", PUBLISHED)
def test_words_are_those_of_the_models_own_tokenizer(pre: str, written: Callable[..., Path]):
    expected = trained(PUBLISHED[pre])
    if RULES[pre].whole_words:
        expected.backend_tokenizer.model.ignore_merges = True  # type: ignore[attr-defined]
    ours = open_base(str(written(pre=pre))).tokenizer
    for text in _TEXTS:
        assert (
            ours(text, add_special_tokens=False)["input_ids"] == expected(text, add_special_tokens=False)["input_ids"]
        )
        assert ours.decode(ours(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("pre", [name for name, rule in RULES.items() if rule.letters])
def test_every_rule_keeps_the_text(pre: str, written: Callable[..., Path]):
    tokenizer = open_base(str(written(pre=pre))).tokenizer
    for text in _TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert (ids[0] == tokenizer.bos_token_id) == RULES[pre].begins


# words as llama.cpp (b11739) cuts them
@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("smollm", "x = 1234", ["x", " =", " ", "1", "2", "3", "4"]),
        ("gpt-2", "x = 1234", ["x", " =", " 1234"]),
        ("llama-bpe", "x = 1234", ["x", " =", " ", "123", "4"]),
        ("qwen2", "x = 1234", ["x", " =", " ", "1", "2", "3", "4"]),
        ("superbpe", "a 1234567", ["a ", "1", "234", "567"]),
        ("tiny_aya", "a 1234567", ["a", " ", "1", "234", "567"]),
        ("gpt-4o", "camelCase", ["camel", "Case"]),
        ("bloom", "a.b c", ["a", ".", "b", " c"]),
        ("viking", "a12", ["a", "1", "2"]),
        ("deepseek-llm", "ab\n12", ["ab", "\n", "12"]),
        (DEFAULT, "x == 12345", ["x", " ", "==", " ", "123", "45"]),
    ],
)
def test_words(pre: str, text: str, words: list[str]):
    pieces = pre_tokenizers.Sequence([_split(split) for split in RULES[pre].splits]).pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == words


def test_an_unknown_rule_is_refused(written: Callable[..., Path]):
    with pytest.raises(SubmodelError, match=r"unknown tokenizer.ggml.pre 'nonsense-xyz'"):
        open_base(str(written(pre="nonsense-xyz"))).tokenizer  # noqa: B018
    with pytest.raises(SubmodelError, match="did you mean 'smollm'"):
        open_base(str(written(pre="smolm"))).tokenizer  # noqa: B018


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({_key("model"): "bert"}, "a tokenizer of the kind 'bert'"),
        ({_key("model"): "t5"}, "a tokenizer of the kind 't5'"),
        ({_key("merges"): ["a"]}, "no pair"),
        ({_key("merges"): ["a Q1"]}, "no token"),
        ({_key("eot_token_id"): 99999}, "eot_token_id is 99999"),
        ({_key("normalizer__lowercase"): True}, "normalizer.lowercase"),
        ({_key("suppress_tokens"): [1, 2]}, "suppress_tokens"),
        ({_key("some_new_rule"): 3}, "some_new_rule"),
    ],
)
def test_what_is_not_understood_is_named(keys: dict[str, Any], why: str, written: Callable[..., Path]):
    with pytest.raises(SubmodelError, match=why):
        open_base(str(written(**keys))).tokenizer  # noqa: B018


@pytest.mark.parametrize(
    ("keys", "ends"),
    [
        ({}, ["</s>", "<|im_end|>"]),  # called so
        ({_key("eot_token_id"): "<PRE>"}, ["</s>", "<PRE>", "<|im_end|>"]),
        ({_key("eom_token_id"): "<SUF>"}, ["</s>", "<SUF>", "<|im_end|>"]),
        ({_key("eos_token_id"): "<MID>"}, ["<MID>", "</s>", "<|im_end|>"]),
        ({_key("fim_pad_token_id"): "<MID>"}, ["</s>", "<MID>", "<|im_end|>"]),
        ({_key("eos_token_id"): None}, ["</s>", "<|im_end|>"]),
        ({_key("eot_token_id"): 2**32 - 1}, ["</s>", "<|im_end|>"]),
    ],
)
def test_ends(keys: dict[str, Any], ends: list[str], written: Callable[..., Path], tmp_path: Path):
    known = trained().get_vocab()
    keys = {key: known[value] if isinstance(value, str) else value for key, value in keys.items()}
    loaded = load(str(written(**keys)))
    assert end_tokens(loaded) == {known[end] for end in ends}
    export_directory(loaded.base, {}, tmp_path / "out")
    assert end_tokens(load(str(tmp_path / "out"))) == {known[end] for end in ends}


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_beginning_and_end_of_a_text(begins: bool, ends: bool, written: Callable[..., Path]):
    keys = {_key("add_bos_token"): begins, _key("add_eos_token"): ends}
    tokenizer = open_base(str(written(**keys))).tokenizer
    ids = tokenizer("ab")["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id, ids[-1] == tokenizer.eos_token_id) == (begins, ends)


def test_special_and_added_tokens(written: Callable[..., Path]):
    known = trained().get_vocab()
    kinds = [1] * len(known)
    for token in _SPECIAL:
        kinds[known[token]] = 3
    kinds[known["<PRE>"]], kinds[known["<MID>"]] = 4, 5
    tokenizer = open_base(str(written(**{_key("token_type"): kinds}))).tokenizer
    ids = tokenizer("a<PRE>b</s><MID>")["input_ids"]
    assert known["<PRE>"] in ids and known["</s>"] in ids
    assert known["<MID>"] not in ids and "<MID>" not in tokenizer.get_vocab()  # not used
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<PRE>b<MID>"


@pytest.mark.parametrize("old", [True, False])
def test_fill_in_the_middle(old: bool, written: Callable[..., Path], tmp_path: Path):
    """By the file's own keys, the older names too; and so in an export."""
    known = trained().get_vocab()
    names = ("prefix", "suffix", "middle") if old else ("fim_pre", "fim_suf", "fim_mid")
    keys = {_key(f"{name}_token_id"): known[token] for name, token in zip(names, _SPECIAL[3:], strict=True)}
    base = open_base(str(written(**keys)))
    export_directory(base, {}, tmp_path / "out")
    for tokenizer in (base.tokenizer, open_base(str(tmp_path / "out")).tokenizer):
        marks = marks_of(tokenizer)
        assert marks is not None
        assert (marks.prefix, marks.suffix, marks.middle) == tuple(known[token] for token in _SPECIAL[3:])
    assert marks_of(open_base(str(written())).tokenizer) is None


def test_chat_templates(written: Callable[..., Path]):
    one = {"tokenizer__chat_template": "{{ messages[0]['content'] }}"}
    tokenizer = open_base(str(written(**one))).tokenizer
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    named = {**one, "tokenizer__chat_template__tool_use": "tools", "tokenizer__chat_templates": ["tool_use"]}
    tokenizer = open_base(str(written(**named))).tokenizer
    turn = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False) == "hi"
    assert tokenizer.apply_chat_template(turn, chat_template="tool_use", tokenize=False) == "tools"
    assert open_base(str(written())).tokenizer.chat_template is None


def test_an_export_has_the_same_tokens(written: Callable[..., Path], tmp_path: Path):
    base = open_base(str(written(pre="smollm", **{_key("add_bos_token"): True})))
    export_directory(base, {}, tmp_path / "out")
    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in _TEXTS:
        assert exported(text)["input_ids"] == base.tokenizer(text)["input_ids"]


_PIECES = ["▁", "a", "b", "c", "d", "ab", "▁a", "▁ab", "cd", "abcd", "bc", "▁▁", "é", "1", "2"]


def _spm_keys(scores: list[float] | None = None, **keys: Any) -> dict[str, Any]:
    control = ["<unk>", "<s>", "</s>", "<|user|>"]
    tokens = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *_PIECES]
    normal = scores or [-float(i) for i in range(len(_PIECES))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [*[0.0] * 260, *normal],
        "tokenizer.ggml.token_type": [2, 3, 3, 3, *[6] * 256, *[1] * len(_PIECES)],
        **{f"tokenizer.ggml.{key}": value for key, value in keys.items()},
    }


def _by_score(text: str, prefix: bool, scores: list[float]) -> list[str]:
    """SentencePiece's BPE, slowly: join the neighbours that make the best piece until none do."""
    best = dict(zip(_PIECES, scores, strict=True))
    parts = list(f"{' ' if prefix else ''}{text}".replace(" ", "▁"))
    while True:
        pairs = [(best[a + b], -i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in best]
        if not pairs:
            return [p for part in parts for p in ([part] if part in best else [f"<0x{x:02X}>" for x in part.encode()])]
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("text", ["abcd ab", "a  b cd", " abc", "aé漢ab\n12", "bcbcd dcba", "a"])
def test_sentencepiece(prefix: bool, text: str, tmp_path: Path):
    keys = _spm_keys(add_space_prefix=prefix)
    file = gguf_files.write(tmp_path / "m.gguf", build("llama", vocab_size=275), keys)
    tokenizer = open_base(str(file)).tokenizer
    scores = [-float(i) for i in range(len(_PIECES))]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", *_by_score(text, prefix, scores)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_sentencepiece_after_special_tokens_and_by_default(tmp_path: Path):
    """As llama.cpp has it: each part of a text that follows a special token begins with a space."""
    file = gguf_files.write(tmp_path / "m.gguf", build("llama", vocab_size=275), _spm_keys())
    loaded = load(str(file))
    tokens = loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer("ab<|user|>ab</s>")["input_ids"])
    assert tokens == ["<s>", "▁ab", "<|user|>", "▁ab", "</s>"]
    assert end_tokens(loaded) == {2}
    file = gguf_files.write(tmp_path / "e.gguf", build("llama", vocab_size=275), _spm_keys([-1000.0] * len(_PIECES)))
    tokens = open_base(str(file)).tokenizer.tokenize("abcd")
    assert tokens == ["▁ab", "cd"]  # equal scores: the lower id first


def test_phi3_tokens_take_the_spaces_after_them(tmp_path: Path):
    keys = _spm_keys() | {"general.name": "Phi-3 mini"}
    file = gguf_files.write(tmp_path / "m.gguf", build("llama", vocab_size=275), keys)
    tokenizer = open_base(str(file)).tokenizer
    for text, tokens in (("<|user|>\n ab", ["<|user|>", "▁ab"]), ("<s> ab", ["<s>", "▁", "▁ab"])):
        assert tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]) == tokens
