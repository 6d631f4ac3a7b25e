"""Tokens that every vocabulary keeps: without them a text, a turn or a request could not be written at all.

They are the bytes (or what stands for them), all special and added tokens, the tokens of fill-in-the-middle, what the
chat template writes around a conversation, and the ids that the configuration names.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from submodel.base.models import Base
from submodel.base.tokenizer_model import TokenizerModel
from submodel.calibration.middle import marks_of
from submodel.errors import SubmodelError

_TURNS = (
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
)
_TOOL = {"name": "a", "description": "b", "parameters": {"type": "object", "properties": {"c": {"type": "string"}}}}
_END_OF_MIDDLE = "▁<EOT>"  # of Code Llama, which is no added token there


def needed(tokenizer: Any, model: TokenizerModel, configs: Sequence[Mapping[str, Any]], rows: int) -> set[int]:
    """The ids that are always kept, of those below `rows`.

    Args:
        tokenizer: of the base.
        model: its rules.
        configs: the model's configuration and that of its generation, as they are in JSON.
        rows: of the head.
    """
    tokens = {*model.atoms, *model.added, *_template_tokens(tokenizer)}
    if marks := marks_of(tokenizer):
        names = (*marks.spelling.tokens, _END_OF_MIDDLE)
        tokens |= {model.ids[name] for name in names if name in model.ids}
    for config in configs:
        tokens |= {token for _, token in named_ids(config)}
    return {token for token in tokens if 0 <= token < rows}


def head_rows(base: Base) -> int:
    """How many rows the output head of a base has."""
    return int(_head(base).shape[0])


def head_width(base: Base) -> int:
    """How many parameters a row of the output head has."""
    return int(_head(base).shape[1])


def vocabulary_parameters(base: Base) -> int:
    """How many parameters the embedding and the output head have, once if they are the same."""
    model: Any = base.skeleton(base.dtype)
    model.tie_weights()
    weights = [module.weight for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    return sum(weight.numel() for weight in {id(weight): weight for weight in weights}.values())


def _head(base: Base) -> torch.Tensor:
    head: Any = base.skeleton(base.dtype).get_output_embeddings()
    if head is None:
        raise SubmodelError(f"{base.reference}: it has no output head whose rows are tokens: leave --vocab out")
    return head.weight


def configs_of(base: Base) -> list[Mapping[str, Any]]:
    """What names token ids: the configuration, and that of the generation if there is one."""
    file = base.path / "generation_config.json"
    try:
        return [base.config.to_dict(), *([json.loads(file.read_text())] if file.is_file() else [])]
    except ValueError as error:
        raise SubmodelError(f"{file}: not JSON ({error}): fetch it again") from error


def named_ids(config: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """(key, id) of every token id that a configuration names, by the names of its keys."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from named_ids(value, str(key))
    elif isinstance(config, list):
        for value in config:
            yield from named_ids(value, name)
    elif is_id_key(name) and isinstance(config, int) and not isinstance(config, bool):
        yield name, config


def is_id_key(name: str) -> bool:
    """Whether a key of a configuration holds token ids, by itself or in lists."""
    endings = ("_token_id", "_token_ids", "_token_index", "_words_ids")
    return name.endswith(endings) or name in ("suppress_tokens", "begin_suppress_tokens")


def _template_tokens(tokenizer: Any) -> set[int]:
    """What the chat template writes, as far as it takes such turns."""
    tokens: set[int] = set()
    if not getattr(tokenizer, "chat_template", None):
        return tokens
    tools = [{"type": "function", "function": _TOOL}]
    for turns in _TURNS:
        for options in ({"add_generation_prompt": True}, {}, {"tools": tools}):
            try:
                tokens |= set(tokenizer.apply_chat_template(turns, return_dict=True, **options)["input_ids"])
            except Exception:  # noqa: BLE001, S112 - a template refuses what it does not know in its own way
                continue
    return tokens
