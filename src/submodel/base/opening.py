"""Open a base by its reference: a Hugging Face directory, a hub id or a .gguf file."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from submodel.base.gguf.parts import file_in
from submodel.base.gguf.source import Gguf
from submodel.base.models import Base, first_line
from submodel.base.weights import Safetensors
from submodel.errors import SubmodelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def open_base(reference: str, trust_remote_code: bool = False) -> Base:
    """Open a base model.

    Args:
        reference: a Hugging Face directory, a hub id such as `Qwen/Qwen2.5-Coder-0.5B`, or a .gguf file.
        trust_remote_code: let code that is shipped with the model run.

    Raises:
        SubmodelError: nothing there, no config, pickled or quantised weights, or the model's own code not allowed.
    """
    path = checkpoint_path(reference, trust_remote_code)
    return base_at(reference, path, open_weights(reference, path), trust_remote_code)


def checkpoint_path(reference: str, trust_remote_code: bool = False) -> Path:
    """Where a reference lies on this machine; what a hub id names is downloaded if it is not here.

    Raises SubmodelError when it is neither there nor to be had.
    """
    path = Path(reference).expanduser()
    return path if _is_gguf(path) or path.is_dir() else _from_hub(reference, trust_remote_code)


def _is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf" and not path.is_dir()


def open_weights(reference: str, path: Path) -> Safetensors | Gguf:
    """The tensors of the checkpoint at `path`; of its other files only the index is read, and no code runs.

    Args:
        reference: what errors call it.
        path: a Hugging Face directory, a .gguf file (of a split one any part), or a directory that holds one.

    Raises:
        SubmodelError: there is no checkpoint, its weights are pickled, or a file of it is missing or cut short.
    """
    if _is_gguf(path):
        if not path.is_file():
            raise SubmodelError(f"{reference}: no such file: give a .gguf file, a model directory or a hub id")
        return Gguf(path)
    if next(path.glob("*.safetensors"), None) is None and (file := file_in(path)) is not None:
        return Gguf(file)
    if not (path / "config.json").is_file():
        raise SubmodelError(f"{reference}: no config.json in it: give a Hugging Face model directory or a .gguf file")
    files = sorted(path.glob("*.safetensors"))
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if index.is_file():
        files = [path / name for name in sorted(set(_weight_map(reference, index).values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise SubmodelError(f"{reference}: {absent[0]} is named in the index but absent: fetch it again")
    elif single.is_file():
        files = [single]
    if not files:
        pickled = any(next(path.glob(pattern), None) for pattern in _PICKLES)
        what = "only pickled weights, which are never opened" if pickled else "no weights"
        raise SubmodelError(f"{reference}: {what}: give safetensors or GGUF")
    return Safetensors(files)


def base_at(reference: str, path: Path, source: Safetensors | Gguf, trust_remote_code: bool = False) -> Base:
    """The base whose weights are open already (see `open_weights`).

    Raises:
        SubmodelError: its config cannot be read or says that the weights are quantised, or the model's own code is not
            allowed.
    """
    if isinstance(source, Gguf):
        return _of_gguf(reference, source)
    config = _config(reference, path, trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise SubmodelError(f"{reference}: its weights are quantised: give the unquantised checkpoint or a GGUF file")
    if reason := _not_decoder_only(config):
        raise SubmodelError(f"{reference}: {config.model_type} {reason}: give a decoder-only model")
    base = Base(reference, path, config, source, trust_remote_code)
    _ = base.generation_settings  # a file that cannot be read is found before any work
    return base


def _not_decoder_only(config: Any) -> str | None:
    """Why a configuration is of another kind of model, though `transformers` gives it a causal head as well."""
    if getattr(config, "is_encoder_decoder", False):
        return "is an encoder with a decoder"
    both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.model_type == "bert-generation"
    if config.model_type == "xlnet" or (both_ways and not getattr(config, "is_decoder", config.model_type != "xlm")):
        return "is an encoder by its config.json, which looks at both sides of a token"
    return None


def _of_gguf(reference: str, source: Gguf) -> Base:
    from submodel.base.gguf import model as gguf_model  # imported where a GGUF file is read

    config, keys = gguf_model.read_config(source)
    base = Base(reference, source.file, config, source, False)
    empty = base.empty(source.dtype)
    gguf_model.bind(source, keys, config, {name: tuple(p.shape) for name, p in empty.state_dict().items()})
    return base


def _weight_map(reference: str, index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise SubmodelError(
            f"{reference}: {index.name} cannot be read ({first_line(error)}): fetch it again"
        ) from error


def _config(reference: str, path: Path, trust_remote_code: bool) -> Any:
    ships_code = False
    try:
        ships_code = "auto_map" in json.loads((path / "config.json").read_text())
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError, StrictDataclassError) as error:
        if ships_code and not trust_remote_code:
            raise SubmodelError(
                f"{reference}: the model ships code of its own, which runs only with --trust-remote-code"
            ) from error
        raise SubmodelError(f"{reference}: its config cannot be read ({first_line(error)})") from error


def is_hub_id(reference: str) -> bool:
    """Whether `reference` has the form of a hub id: NAME or OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-][\w.-]*", reference) is not None


def _from_hub(reference: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if Path(reference).expanduser().is_file():
        raise SubmodelError(f"{reference}: a file, but no .gguf file: give a model directory, a .gguf file or a hub id")
    if not is_hub_id(reference):
        raise SubmodelError(f"{reference}: no such directory: give a model directory, a .gguf file or a hub id")
    try:
        code = ["*.py"] if trust_remote_code else []
        return Path(snapshot_download(reference, allow_patterns=[*_HUB_FILES, *code]))
    except HFValidationError as error:
        raise SubmodelError(f"{reference}: neither a directory nor a hub id") from error
    except Exception as error:  # the hub client raises errors of many libraries when a network is absent
        raise SubmodelError(
            f"{reference}: no such directory, and not to be had from the hub ({first_line(error)})"
        ) from error
