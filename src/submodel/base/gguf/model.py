"""From a GGUF file to the config of its model, and from the model's parameters to the file's tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from submodel.base.gguf.families import FAMILIES
from submodel.base.gguf.families.family import pieces_of
from submodel.base.gguf.keys import Keys
from submodel.base.gguf.source import Gguf
from submodel.base.gguf.tokenizer.ends import end_tokens
from submodel.base.gguf.tokenizer.vocabulary import read_vocabulary
from submodel.errors import SubmodelError, unknown_name


def read_config(source: Gguf) -> tuple[Any, Keys]:
    """The config of a file's model, and the keys, which know what went into it.

    Raises:
        SubmodelError: a family that is not read, or a key that is not understood.
    """
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    keys = Keys(source.file, source.fields, shapes, source.array)
    if keys.architecture not in FAMILIES:
        error = unknown_name("family in GGUF", keys.architecture, FAMILIES)
        raise SubmodelError(f"{source.file}: {error}: give the model's safetensors directory")
    model_type, settings = FAMILIES[keys.architecture].config(keys)
    keys.refuse_unread()
    try:
        return AutoConfig.for_model(model_type, **settings, **_tokens(source.file, source.fields)), keys
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        why = " ".join(str(error).split())[:200]
        raise SubmodelError(f"{source.file}: its keys make no config of {model_type} ({why})") from error


def _tokens(file: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of tokens that a config has."""
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if "tokenizer.ggml.tokens" not in fields:
        return none
    vocabulary = read_vocabulary(file, fields)
    ends = list(end_tokens(vocabulary))
    return {
        **none,
        "bos_token_id": vocabulary.roles.get("bos"),
        "eos_token_id": ends if len(ends) > 1 else (ends or [None])[0],
        "pad_token_id": vocabulary.roles.get("pad"),
    }


def bind(source: Gguf, keys: Keys, config: Any, parameters: Mapping[str, tuple[int, ...]]) -> None:
    """Let a source be read by the model's names.

    Args:
        source: the file.
        keys: what was read of it.
        config: of its model.
        parameters: the shapes of the model's parameters, by their names.

    Raises:
        SubmodelError: a tensor has no place in the model.
    """
    pieces = pieces_of(FAMILIES[keys.architecture], keys, config, parameters, source.tensors)
    # a family's biases come together in `transformers`; in a file those that are zero may be left out
    zeros = {name: shape for name, shape in parameters.items() if name.endswith(".bias") and name not in pieces}
    source.bind(pieces, zeros)
