"""Fill in the middle as families write it, found from the tokenizer."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from submodel.calibration.middle import SPELLINGS, Spelling
from submodel.serve.openai.prompts import RequestPrompts
from submodel.serve.refusal import Refusal
from tests import tiny

BEFORE, AFTER = "def f(a): ", "\n  return a\n"


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """As SentencePiece has it: characters, a space (▁) before every text, a sequence begins with <s>."""
    characters = ["▁", "☺", "\n", *map(chr, range(33, 127))]
    vocabulary = {character: i for i, character in enumerate(["<unk>", "<s>", "</s>", *characters])}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def written(spelling: Spelling, before: str, after: str) -> str:
    """The prompt as an editor's template writes it."""
    prefix, suffix, middle = spelling.written or (spelling.prefix, spelling.suffix, spelling.middle or "")
    return f"{suffix}{after}{prefix}{before}" if spelling.suffix_first else f"{prefix}{before}{suffix}{after}{middle}"


@pytest.mark.parametrize("make", [tiny.byte_tokenizer, spaced_tokenizer])
@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.prefix)
def test_every_spelling_both_ways(spelling: Spelling, make: Any):
    tokenizer = make()
    tokenizer.add_tokens([*spelling.tokens], special_tokens=True)
    if make is tiny.byte_tokenizer and spelling.written:
        pytest.skip("its tokens are SentencePiece's")
    prompts, known = RequestPrompts(tokenizer), tokenizer.get_vocab()
    prefix, suffix, *middle = (known[token] for token in spelling.tokens)
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    inside = encode(AFTER)[make is spaced_tokenizer :]  # no space before what goes on in the middle of a text
    halves = [[prefix, *encode(BEFORE)], [suffix, *inside]]
    opening = [known["<s>"]] if make is spaced_tokenizer else []
    expected = [*opening, *sum(reversed(halves) if spelling.suffix_first else halves, []), *middle]
    asked = prompts.infill(BEFORE, AFTER)
    assert list(asked.tokens) == expected and {prefix, suffix, *middle} <= asked.ends
    text = written(spelling, BEFORE, AFTER)
    assert prompts.text(text) == asked and prompts.split(text) == (BEFORE, AFTER)
    context = prompts.text("other file\n" + text)  # what an editor puts before it is kept
    assert prompts.split("other file\n" + text) == (BEFORE, AFTER) and context.ends == asked.ends
    assert tokenizer.decode(context.tokens).replace(" ", "").count("other") == 1
    assert list(context.tokens)[-len(expected) + len(opening) :] == expected[len(opening) :]
    for broken in (BEFORE, text.replace(written(spelling, "", "")[:3], "", 1)):
        assert prompts.split(broken) == (broken, None) and not prompts.text(broken).ends
    assert prompts.tokens(expected).ends and not prompts.tokens(encode(BEFORE)).ends


def test_the_beginning_of_a_middle_is_kept():
    tokenizer = spaced_tokenizer()
    tokenizer.add_tokens(["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], special_tokens=True)
    prompts = RequestPrompts(tokenizer)
    found = prompts.text("<PRE> ab <SUF>cd <MID>ef")
    assert tokenizer.convert_ids_to_tokens(list(found.tokens)) == (
        ["<s>", "▁<PRE>", "▁", "a", "b", "▁<SUF>", "c", "d", "▁<MID>", "e", "f"]
    )
    assert tokenizer.get_vocab()["▁<EOT>"] in found.ends
    assert tokenizer.convert_ids_to_tokens(list(prompts.infill("", "").tokens)) == (
        ["<s>", "▁<PRE>", "▁<SUF>", "▁<MID>"]
    )


def test_suffix_first():
    tokenizer = spaced_tokenizer()
    tokenizer.add_tokens(["[PREFIX]", "[SUFFIX]", "[MIDDLE]"], special_tokens=True)
    for found in (RequestPrompts(tokenizer).infill("ab", "cd"), RequestPrompts(tokenizer).text("[SUFFIX]cd[PREFIX]ab")):
        tokens = tokenizer.convert_ids_to_tokens(list(found.tokens))
        assert tokens == ["<s>", "[SUFFIX]", "c", "d", "[PREFIX]", "▁", "a", "b"]


def test_a_base_that_has_no_such_tokens():
    prompts = RequestPrompts(tiny.byte_tokenizer())
    with pytest.raises(Refusal, match="no fill-in-the-middle tokens"):
        prompts.infill("a", "b")
    text = "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    assert prompts.split(text) == (text, None) and not prompts.text(text).ends
