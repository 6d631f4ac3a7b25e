"""How text is cut into words before BPE merges within each, by the names of `tokenizer.ggml.pre`.

The names and what they stand for are llama.cpp's. Where its expression approximates the one in the model's own
tokenizer.json, which the regex engine of `tokenizers` runs as it is, that one stands here.
"""

from dataclasses import dataclass

from submodel.errors import unknown_name


@dataclass(frozen=True)
class Rule:
    """What a name stands for.

    Attributes:
        splits: expressions, one after the other; what one matches and what lies between are words for the next.
        whole_words: a word that is in the vocabulary is a token, whatever the merges are.
        begins: a text begins with the beginning token where the file does not say.
        letters: bytes are GPT-2's letters; else spaces are written as SentencePiece does, and rare bytes as <0xFF>.
    """

    splits: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False
    letters: bool = True


_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = r"[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_LLAMA3 = _CONTRACTION + "|" + _LATER.replace("DIGITS", r"\p{N}{1,3}")
_QWEN2 = _CONTRACTION + "|" + _LATER.replace("DIGITS", r"\p{N}")
# a word of capitals and one of small letters are two
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_CASED = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+CONTRACTION|{_BEFORE}{_UPPER}+{_LOWER}*CONTRACTION|DIGITS|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_GPT4O = _CASED.replace("CONTRACTION", f"{_CONTRACTION}?").replace("DIGITS", r"\p{N}{1,3}")
_TEKKEN = _CASED.replace("CONTRACTION", "").replace("DIGITS", r"\p{N}")
_YOUTU = _CASED.replace("CONTRACTION", f"{_CONTRACTION}?").replace("DIGITS", r"\p{N}")
_PUNCTUATED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
_DEEPSEEK3 = _PUNCTUATED + r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
_THREE_FROM_THE_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_HAN = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_HAN_AND_HANGUL = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_NO_PUNCTUATION = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_LINES = r"[^\n]+|[\n]+"
# the letters with a case, as Unicode 11 had them
_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI = "|".join(
    (
        r"[\p{Han}]+",
        f"{_BEFORE}{_UPPER[:-1]}{_NOT_HAN}]*{_LOWER[:-1]}{_NOT_HAN}]+{_CONTRACTION}?",
        f"{_BEFORE}{_UPPER[:-1]}{_NOT_HAN}]+{_LOWER[:-1]}{_NOT_HAN}]*{_CONTRACTION}?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
        _SPACES,
    )
)

_STARCODER = Rule((r"\p{N}", _GPT2))
_PLAIN = Rule((_GPT2,))
_LLAMA = Rule((_LLAMA3,), whole_words=True, begins=True)
_QWEN = Rule((_QWEN2,))
_DEEPSEEK = Rule((r"\p{N}{1,3}", _HAN, _DEEPSEEK3))
_OMNI = Rule((_GPT4O,))
_AYA = Rule((_THREE_FROM_THE_RIGHT, _GPT4O))
_BLOOM = Rule((_NO_PUNCTUATION,))
_BAILING = Rule(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",)
)
_SENTENCES = Rule((_LINES,), letters=False)

DEFAULT = "default"
"""What a file means that names no rule."""

RULES: dict[str, Rule] = {
    DEFAULT: Rule((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(
        (
            "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
        ),
        _LLAMA,
    ),
    "minicpm5": Rule((r"\p{N}{1,3}", _CONTRACTION + "|" + _LATER.replace("DIGITS", r"\p{N}+")), whole_words=True),
    "deepseek-llm": Rule(
        (
            r"[\r\n]",
            rf"\s?[{_LETTERS}]+",
            r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _HAN_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": Rule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK),
    "spark2_5": Rule(
        (
            r"\p{N}{1,3}",
            _HAN,
            _PUNCTUATED + r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+",
            r"\p{N}",
        )
    ),
    "youtu": Rule(
        (
            r"[\uac00-\ud7a3\u3131-\u318e]+"
            r"|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
            rf"|[\u3105-\u312f]+|{_HAN}",
            _YOUTU,
        ),
        whole_words=True,
    ),
    "falcon": Rule((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    **dict.fromkeys(
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), _STARCODER
    ),
    **dict.fromkeys(
        (
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "jina-es", "jina-de", "gigachat",
            "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "roberta-bpe", "a.x-4.0", "mellum", "modern-bert",
            "exaone4",
        ),
        _PLAIN,
    ),
    "jais-2": Rule(
        (
            _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
            + "|".join(rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
            + r"|\s{1}",
        )
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), Rule((_LLAMA3,))),
    **dict.fromkeys(("glm4", "glm5"), Rule((_LLAMA3,), whole_words=True)),
    **dict.fromkeys(
        (
            "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
        ),
        _QWEN,
    ),
    "qwen35": Rule(
        (
            _CONTRACTION
            + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
            + _SPACES,
        )
    ),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), _BLOOM),
    "viking": Rule((_NO_PUNCTUATION, r"\p{N}")),
    "tekken": Rule((_TEKKEN,), whole_words=True, begins=True),
    "chameleon": Rule(
        (
            "<sentinel:[0-9]+>",
            "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        begins=True,
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _OMNI),
    "granite-embed-multi-97m": Rule((_GPT4O,), whole_words=True),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), _AYA),
    "kimi-k2": Rule((_KIMI,)),
    "superbpe": Rule((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
    "seed-coder": Rule(
        (_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES,)
    ),
    "ufakzeka": Rule((_LATER.replace("DIGITS", r"\p{N}"),)),
    "afmoe": Rule(
        (
            _THREE_FROM_THE_RIGHT,
            r"[\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
            r"\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
            r"\u1100-\u11ff]+",
            _DEEPSEEK3,
        )
    ),
    "laguna": Rule((_LINES, _QWEN2)),
    "exaone-moe": Rule(
        (
            _CONTRACTION
            + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
            + r"|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    **dict.fromkeys(("gemma4", "granite-embed-multi-311m", "sarvam-moe"), _SENTENCES),
}  # fmt: skip


def rule_named(name: str) -> Rule:
    """The rule of a name. Raises SubmodelError for one that llama.cpp does not know either."""
    if name not in RULES:
        raise unknown_name("tokenizer.ggml.pre", name, RULES)
    return RULES[name]
