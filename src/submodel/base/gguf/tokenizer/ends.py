"""The tokens that end a text: those that the file says, and those that are called so.

Few files have keys for all of them; llama.cpp knows the others by their texts, and so does this.
"""

from submodel.base.gguf.tokenizer.vocabulary import CONTROL, Vocabulary

_CALLED = frozenset(
    {
        "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
        "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<EOT>", "_<EOT>", "▁<EOT>", "[EOT]", "[EOS]",
        "<end_of_utterance>", "<eos>", "<turn|>", "<｜end▁of▁sentence｜>", "[e~[",
    }
)  # fmt: skip
# what begins another file or repository
_FILES = frozenset(
    {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|file_sep|>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>"}
)
# formats with channels, where <|end|> ends a message and not the answer
_CHANNELS = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})


def end_tokens(vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids of all tokens that end a text, the file's own end token first."""
    ids = [vocabulary.roles[role] for role in ("eos", "eot", "eom") if role in vocabulary.roles]
    ids += [vocabulary.roles[role] for role in ("fim_pad", "fim_repo", "fim_separator") if role in vocabulary.roles]
    called = {vocabulary.tokens[i]: i for i in vocabulary.of_kind(CONTROL) if vocabulary.tokens[i] in _CALLED | _FILES}
    if any(channel <= set(called) for channel in _CHANNELS):
        called.pop("<|end|>", None)
    return tuple(dict.fromkeys([*ids, *sorted(called.values())]))
