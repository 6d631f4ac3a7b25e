"""Small tokenizers of every kind that can be cut, trained on this repository, and text that finds their edges."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parent.parent
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


@cache
def corpus() -> list[str]:
    """Text to train on and to encode: this repository's modules and pages, and other scripts."""
    files = [*sorted(ROOT.glob("src/submodel/**/*.py")), *sorted(ROOT.glob("docs/**/*.md"))]
    others = [
        "Größe, naïve café, élève — 中文字符 和 日本語 のテキスト, русский текст, 😀👍🏽 ∑∫√ ﷽ עברית العربية"
    ] * 20
    return [file.read_text() for file in files] + others


def byte_level(split: str, *, all_splits: bool = False, ignore_merges: bool = False, size: int = 1500) -> Tokenizer:
    """BPE over bytes.

    Args:
        split: "gpt2", "digits" (SmolLM, StarCoder), "qwen" or "llama3".
        all_splits: rules for every way to make a token, as a conversion from tiktoken writes them.
        ignore_merges: a word that is a token is one, whatever the rules say.
        size: of the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = {
        "gpt2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
        "digits": lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        "qwen": lambda: _by_pattern(_QWEN),
        "llama3": lambda: _by_pattern(_LLAMA3),
    }[split]()
    tokenizer.decoder = decoders.ByteLevel()
    if split == "qwen":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    if all_splits or ignore_merges:
        document = json.loads(tokenizer.to_str())
        if all_splits:
            document["model"]["merges"] = _all_splits(document["model"]["vocab"])
        document["model"]["ignore_merges"] = ignore_merges
        tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    if split == "llama3":
        end = SPECIALS[0]
        template = processors.TemplateProcessing(
            single=f"{end} $A", pair=f"{end} $A {end} $B", special_tokens=[(end, tokenizer.token_to_id(end))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def byte_fallback(style: str, size: int = 1200) -> Tokenizer:
    """BPE over characters with bytes for the others, as conversions from SentencePiece write it.

    `style` is "llama2" (all the text is one word, after a space), "mistral" (Metaspace) or "gemma" (no space before).
    """
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁+|\n+|[^▁\n]+"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size, limit_alphabet=150, show_progress=False, special_tokens=["<unk>"])
    trained.train_from_iterator(corpus(), trainer)
    learned = [token for token in sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__) if token != "<unk>"]
    spaced = [f"▁{token}" for token in learned if token.isalpha() and len(token) > 2][:300] + ["▁▁", "▁▁▁▁", "\n\n"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = [token for token in learned if len(token) == 1]
    longer = sorted(
        {*(t for t in learned if len(t) > 1), *spaced}, key=lambda t: (len(t), learned.index(t) if t in learned else 0)
    )
    vocabulary = {token: at for at, token in enumerate(dict.fromkeys([*first, "▁", *longer, *characters, "\n"]))}
    merges = _all_splits({token: at for token, at in vocabulary.items() if token not in first})
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    space = normalizers.Replace(" ", "▁")
    if style == "llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    elif style == "gemma":
        tokenizer.normalizer = space
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, *([] if style == "gemma" else [decoders.Strip(" ", 1, 0)])])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>", *SPECIALS)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return tokenizer


def unigram(bytes_for_unknown: bool, size: int = 900) -> Tokenizer:
    """Unigram with Metaspace; without tokens for bytes an unknown character is <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([text[:1200] for text in corpus()], trainer)
    document = json.loads(tokenizer.to_str())
    if bytes_for_unknown:
        document["model"]["byte_fallback"] = True
        document["model"]["vocab"][3:3] = [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    parts: list[Any] = [decoders.ByteFallback(), decoders.Metaspace()]
    tokenizer.decoder = decoders.Sequence(parts) if bytes_for_unknown else decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>", *SPECIALS)])
    sep = tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", sep)]
    )
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: byte_level("gpt2"),
    "smollm": lambda: byte_level("digits"),
    "qwen": lambda: byte_level("qwen"),
    "llama3": lambda: byte_level("llama3", all_splits=True, ignore_merges=True),
    "tiktoken": lambda: byte_level("llama3", all_splits=True),
    "llama2": lambda: byte_fallback("llama2"),
    "mistral": lambda: byte_fallback("mistral"),
    "gemma": lambda: byte_fallback("gemma"),
    "unigram": lambda: unigram(False),
    "unigram-bytes": lambda: unigram(True),
}


@cache
def document_of(name: str) -> str:
    """The tokenizer.json of one of TOKENIZERS."""
    return TOKENIZERS[name]().to_str()


def fast(name: str) -> PreTrainedTokenizerFast:
    """One of TOKENIZERS as transformers has it."""
    tokenizer = Tokenizer.from_str(document_of(name))
    known = tokenizer.get_vocab()
    end = SPECIALS[0] if "</s>" not in known else "</s>"
    options = {"bos_token": "<s>"} if "<s>" in known else {}
    result = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end, **options)
    result.chat_template = TEMPLATE
    return result


CODE = {
    "python": "def f(x: int) -> list[str]:\n    return [f'{i:>8}' for i in range(x)]\n",
    "java": 'public static <T> Map<String, List<T>> of(T... xs) { return Map.of("k", List.of(xs)); }\n',
    "c": '#include <stdio.h>\nint main(void) {\n\tfor (int i = 0; i < 10; ++i) printf("%d\\n", i);\n\treturn 0;\n}\n',
    "cpp": "template <typename T> auto add(T&& a, T&& b) noexcept -> decltype(a + b) { return a + b; }\n",
    "javascript": "const g = async ({ a = 1, ...rest } = {}) => `${a}${await h(rest)}`;\n",
    "typescript": "type P<T> = { readonly [K in keyof T]?: T[K] | null };\n",
    "go": "func (s *Server) Run(ctx context.Context) error {\n\tselect { case <-ctx.Done(): return ctx.Err() }\n}\n",
    "rust": "impl<'a, T: Display + 'a> Foo<'a, T> { fn x(&self) -> Option<&'a T> { self.0.as_ref()? } }\n",
    "ruby": "class A < B\n  attr_reader :x\n  def each(&block) = @x.map(&:to_s).each(&block)\nend\n",
    "php": "<?php\nfunction f(?array $a = null): string { return implode(', ', $a ?? []); }\n",
    "haskell": "main :: IO ()\nmain = mapM_ print $ takeWhile (< 100) [x ^ 2 | x <- [1 ..], odd x]\n",
    "ocaml": "let rec fold f acc = function [] -> acc | x :: xs -> fold f (f acc x) xs\n",
    "lisp": "(defun fact (n) (if (<= n 1) 1 (* n (fact (- n 1)))))\n",
    "perl": 'while (my ($k, $v) = each %h) { print "$k=$v\\n" if $k =~ /^\\w+$/; }\n',
    "bash": "for f in *.txt; do [[ -f \"$f\" ]] && echo \"${f%.txt}\" | tr 'a-z' 'A-Z' >> out 2>&1; done\n",
    "sql": "SELECT a.id, COUNT(*) FROM a LEFT JOIN b ON a.id = b.a_id WHERE b.x IS NOT NULL GROUP BY 1;\n",
    "html": "<div class=\"a b\" data-x='1'><!-- c --><p>&nbsp;x &lt; y</p></div>\n",
    "css": '@media (max-width: 600px) { .a > .b::before { content: "\\201C"; margin: 0 auto !important; } }\n',
    "json": '{"a": [1, 2.5e-10, null, true], "b": {"c": "\\u00e9\\n"}}\n',
    "yaml": "a: &x\n  - b: |\n      text\n  - <<: *x\n    c: 'it''s'\n",
    "make": "%.o: %.c $(HEADERS)\n\t@$(CC) -c $< -o $@ $(CFLAGS)\n",
    "asm": "section .text\n_start: mov rax, 60 ; exit\n    xor rdi, rdi\n    syscall\n",
    "latex": "\\begin{align*} \\sum_{i=1}^{n} x_i^2 &= \\frac{1}{2} \\\\ \\end{align*}\n",
    "swift": "guard let x = try? await f(), x.count > 0 else { return nil }\n",
}
"""A line or two in many languages."""

EDGES = (
    "", " ", "  ", "\n", "\n\n\n", "\t\t", "\r\n\r\n", " \n \t x", " " * 57 + "x", "\x00\x01\x07\x1b[0m\x7f",
    "a\u0000b", "\u200b\u200d\ufeff", "e\u0301 é ﬁ Å Å", "😀👩‍👩‍👧‍👦🏳️‍🌈", "▁▁ x▁y", "<0x41> <0xE9>", "<unk><s></s>",
    "<|im_start|>user\n",
    "1234567890 0.1e-9 ١٢٣", "ﷺ ﷽ ﷻ", "\U0010ffff\ud7ff\ue000", "ß ẞ İ ı ſ", "𝒳𝔘𝟘", "x" * 300, "日本語" * 20,
    "'s 'T I'LL",
    "<tool_call>{}", "a\u00a0b\u3000c\u2003d",
)  # fmt: skip


def random_texts(seed: int, count: int) -> list[str]:
    """Text of letters from everywhere in Unicode, runs of spaces and line ends, control characters, pieces of code."""
    rng = random.Random(seed)
    pieces = [*CODE.values(), *EDGES]
    texts: list[str] = []
    for _ in range(count):
        parts: list[str] = []
        for _ in range(rng.randint(1, 8)):
            kind = rng.randrange(6)
            if kind == 0:
                parts.append("".join(chr(_scalar(rng)) for _ in range(rng.randint(1, 12))))
            elif kind == 1:
                parts.append(rng.choice([" ", "\n", "\t", "\r\n", "\u00a0"]) * rng.randint(1, 40))
            elif kind == 2:
                parts.append("".join(chr(rng.randrange(0, 160)) for _ in range(rng.randint(1, 10))))
            elif kind == 3:
                text = rng.choice(corpus())
                at = rng.randrange(len(text))
                parts.append(text[at : at + rng.randint(1, 200)])
            else:
                text = rng.choice(pieces)
                at = rng.randrange(len(text) + 1)
                parts.append(text[at : at + rng.randint(1, 60)])
        texts.append("".join(parts))
    return texts


def _scalar(rng: random.Random) -> int:
    while True:
        code = rng.choice([rng.randrange(0x80, 0x3000), rng.randrange(0x3000, 0xD800), rng.randrange(0xE000, 0x110000)])
        if not 0xD800 <= code < 0xE000:
            return code


def _by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _all_splits(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """A rule for every pair of tokens whose joined text is a token, the lowest id of the result first."""
    rules: list[tuple[str, str]] = []
    for token in sorted(vocabulary, key=vocabulary.__getitem__):
        splits = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        rules += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return rules
