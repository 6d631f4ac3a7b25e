"""A base model: open it, build it empty, fill any part of it, find its blocks and its prunable matrices.

A base is a Hugging Face directory, a hub id or a .gguf file. `Base.skeleton` gives the whole model without
memory for its weights; `Base.fill` reads the weights of one part of it. transformers' own tables rename and
fuse checkpoint tensors, so a family needs no line here as long as its blocks compute with `nn.Linear` or with
one 3-D parameter for all experts of a mixture.
"""

import copy
import json
import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from submodel.base.weights import FLOATS, Gguf, Safetensors, Source
from submodel.errors import SubmodelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_ROWS = 1024  # of an embedding, read at once
_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


class _Lazy:
    """A tensor that is read from the source when transformers' loader indexes it."""

    def __init__(self, source: Source, name: str):
        self._source, self._name = source, name

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self._source.get(self._name)


@dataclass(frozen=True)
class Matrix:
    """One prunable parameter of a block: a linear's weight (rows, cols), or (experts, rows, cols).

    Attributes:
        name: the parameter's full name in the model.
        module: the module that owns it.
        attribute: the parameter's name in that module.
    """

    name: str
    module: nn.Module
    attribute: str

    @property
    def weight(self) -> torch.Tensor:
        return getattr(self.module, self.attribute)


class Base:
    """An opened base model; nothing but its configuration is in memory.

    Attributes:
        reference: what the user gave.
        path: the local directory or .gguf file.
        config: transformers' configuration.
        source: the checkpoint's tensors.
    """

    def __init__(self, reference: str, path: Path, config: Any, source: Source, trust_remote_code: bool):
        self.reference = reference
        self.path = path
        self.config = config
        self.source = source
        self.trust_remote_code = trust_remote_code
        self._built: dict[torch.dtype, PreTrainedModel] = {}
        if isinstance(source, Gguf):
            skeleton = self._empty(torch.bfloat16)
            source.bind(skeleton, config.to_dict())

    def __repr__(self) -> str:
        return f"<base {self.reference}: {self.config.model_type}, {self.source.size_bytes / 1e6:,.1f} MB on disk>"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stored weights (bfloat16 for a GGUF file, which is dequantised to it)."""
        if isinstance(self.source, Safetensors):
            stored = [self.source.dtype_name(name) for name in self.source.names]
            known = [FLOATS[s] for s in stored if s in FLOATS]
            if known:
                return max(set(known), key=known.count)
        return torch.bfloat16

    @property
    def context(self) -> int | None:
        """Positions that the model was made for; None if its configuration does not say."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def sha256(self) -> str:
        """The identity of the weights (see `weights`)."""
        return self.source.sha256()

    @cached_property
    def tokenizer(self) -> Any:
        try:
            if isinstance(self.source, Gguf):
                with self.source.shared_reader():
                    return AutoTokenizer.from_pretrained(self.path.parent, gguf_file=self.path.name)
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise SubmodelError(f"{self.reference}: no tokenizer can be loaded ({_first_line(error)})") from error

    def skeleton(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model with every parameter on the meta device and real non-persistent buffers (rotary tables)."""
        model = self._empty(dtype)
        for name, buffer in model.named_non_persistent_buffers():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = torch.empty_like(buffer, device="cpu")
        model.initialize_weights()  # fills the buffers; on meta parameters it does nothing
        return model

    def _empty(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model on the meta device, a copy of one that is built once.

        Building sets torch's default dtype for a moment, and that for all threads: one that computes meanwhile would
        get tensors of another dtype. Copying does not.
        """
        if dtype not in self._built:
            self._built[dtype] = self._build(dtype)
        return copy.deepcopy(self._built[dtype])

    def _build(self, dtype: torch.dtype) -> PreTrainedModel:
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(
                    self.config, dtype=dtype, trust_remote_code=self.trust_remote_code
                )
        except ValueError as error:
            raise SubmodelError(f"{self.reference}: not a decoder-only model ({_first_line(error)})") from error
        _prefer_observable_experts(model)
        return model.eval()

    def targets(self, model: PreTrainedModel) -> dict[str, str]:
        """Checkpoint tensor name -> the model's parameter it becomes (the first one, if it becomes several)."""
        if isinstance(self.source, Gguf):
            return {name: name for name in self.source.names}
        mapping = get_model_conversion_mapping(model)
        renamings = [m for m in mapping if isinstance(m, WeightRenaming)]
        converters = [m for m in mapping if isinstance(m, WeightConverter)]
        known = model.state_dict()
        found: dict[str, str] = {}
        for name in self.source.names:
            target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
            if target not in known and name in known:
                target = name
            found[name] = target
        return found

    def fill(self, model: PreTrainedModel, wanted: Callable[[str], bool], targets: dict[str, str]) -> None:
        """Read every parameter whose name is `wanted` into `model`, in the model's dtype.

        Raises SubmodelError when one is missing from the checkpoint or has another shape.
        """
        names = [name for name, target in targets.items() if wanted(target)]
        self.source.prefetch(names)
        mapping: Any = None if isinstance(self.source, Gguf) else get_model_conversion_mapping(model)
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            info, _ = convert_and_load_state_dict_in_model(
                model,
                {name: _Lazy(self.source, name) for name in names},
                LoadStateDictConfig(weight_mapping=mapping),
            )
        finally:
            if shown:
                transformers_logging.enable_progress_bar()
        for name, given, expected in info.mismatched_keys:
            raise SubmodelError(
                f"{self.reference}: {name} has shape {tuple(given)} in the checkpoint, {tuple(expected)} by its config"
            )
        tied = getattr(model, "all_tied_weights_keys", {})
        missing = sorted(name for name in info.missing_keys if wanted(name) and name not in tied)
        if missing or info.conversion_errors:
            first = missing[0] if missing else next(iter(info.conversion_errors))
            raise SubmodelError(f"{self.reference}: the checkpoint lacks {first} ({len(missing)} missing in all)")

    def fill_rows(self, model: PreTrainedModel, name: str, rows: list[int], targets: dict[str, str]) -> None:
        """Read only some rows of a parameter into `model`; the others are zeros that take no memory."""
        parameter = model.get_parameter(name)
        source = next(key for key, target in targets.items() if target == name)
        weight = torch.frombuffer(_untouched(parameter.nbytes), dtype=parameter.dtype).view(parameter.shape)
        for at in range(0, len(rows), _ROWS):
            some = rows[at : at + _ROWS]
            weight[some] = self.source.get_rows(source, some).to(parameter.dtype)
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))

    def load(self, dtype: torch.dtype | None = None, device: str = "cpu") -> PreTrainedModel:
        """The whole model in memory, tied as its config says, ready to run."""
        model = self.skeleton(dtype or self.dtype)
        self.fill(model, lambda _: True, self.targets(model))
        model.tie_weights()
        if (self.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(self.path)
        return cast(PreTrainedModel, model.to(device))  # type: ignore[arg-type]


def _untouched(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page as they are written to; numpy's come in huge pages, nearly all at once."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def open_base(reference: str, trust_remote_code: bool = False) -> Base:
    """Open a base model.

    Args:
        reference: a Hugging Face directory, a hub id such as `Qwen/Qwen2.5-Coder-0.5B`, or a .gguf file.
        trust_remote_code: let code that is shipped with the model run.

    Raises:
        SubmodelError: nothing there, no config, pickled or quantised weights, or the model's own code not allowed.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise SubmodelError(f"{reference}: no such file: give a .gguf file, a model directory or a hub id")
        source = Gguf(path)
        return Base(reference, path, _gguf_config(path, source), source, trust_remote_code)
    if not path.is_dir():
        path = _from_hub(reference, trust_remote_code)
    if not (path / "config.json").is_file():
        raise SubmodelError(f"{reference}: no config.json in it: give a Hugging Face model directory or a .gguf file")
    files = sorted(path.glob("*.safetensors"))
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if index.is_file():
        files = [path / name for name in sorted(set(_weight_map(reference, index).values()))]
        absent = [file.name for file in files if not file.is_file()]
        if absent:
            raise SubmodelError(f"{reference}: {absent[0]} is named in the index but absent: fetch it again")
    elif whole.is_file():
        files = [whole]
    if not files:
        pickled = any(next(path.glob(pattern), None) for pattern in _PICKLES)
        what = "only pickled weights, which are never opened" if pickled else "no weights"
        raise SubmodelError(f"{reference}: {what}: give safetensors or GGUF")
    config = _config(reference, path, trust_remote_code)
    if getattr(config, "quantization_config", None):
        raise SubmodelError(f"{reference}: its weights are quantised: give the unquantised checkpoint or a GGUF file")
    return Base(reference, path, config, Safetensors(files), trust_remote_code)


def _weight_map(reference: str, index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise SubmodelError(
            f"{reference}: {index.name} cannot be read ({_first_line(error)}): fetch it again"
        ) from error


def _config(reference: str, path: Path, trust_remote_code: bool) -> Any:
    own_code = False
    try:
        own_code = "auto_map" in json.loads((path / "config.json").read_text())
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError, TypeError, StrictDataclassError) as error:
        if own_code and not trust_remote_code:
            raise SubmodelError(
                f"{reference}: the model ships code of its own, which runs only with --trust-remote-code"
            ) from error
        raise SubmodelError(f"{reference}: its config cannot be read ({_first_line(error)})") from error


def _gguf_config(path: Path, source: Gguf) -> Any:
    try:
        with source.shared_reader():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    except (ValueError, OSError, KeyError, IndexError) as error:
        raise SubmodelError(f"{path}: its model family cannot be read from GGUF ({_first_line(error)})") from error
    config.__dict__.pop("quantization_config", None)
    return config


def is_hub_id(reference: str) -> bool:
    """Whether `reference` has the form of a hub id: NAME or OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-][\w.-]*", reference) is not None


def _from_hub(reference: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if not is_hub_id(reference):
        raise SubmodelError(f"{reference}: no such directory: give a model directory, a .gguf file or a hub id")
    try:
        code = ["*.py"] if trust_remote_code else []
        return Path(snapshot_download(reference, allow_patterns=[*_HUB_FILES, *code]))
    except HFValidationError as error:
        raise SubmodelError(f"{reference}: neither a directory nor a hub id") from error
    except Exception as error:  # the hub client raises errors of many libraries when a network is absent
        raise SubmodelError(
            f"{reference}: no such directory, and not to be had from the hub ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _prefer_observable_experts(model: PreTrainedModel) -> None:
    """Mixtures compute one expert after another, each with a plain matrix product whose input can be seen."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"


def blocks_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder blocks and their name: the outermost list of `num_hidden_layers` modules that hold matrices.

    Raises SubmodelError if there is none.
    """
    wanted = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted and matrices_of(module[0], ""):
            return name, module
    raise SubmodelError(f"{type(model).__name__} has no list of {wanted} decoder blocks with linear layers to prune")


def matrices_of(block: nn.Module, prefix: str) -> list[Matrix]:
    """Every prunable parameter of a block, in the order of the block's modules.

    Args:
        block: a decoder block.
        prefix: its name in the model, such as `model.layers.0`.
    """
    found: list[Matrix] = []
    for path, module in block.named_modules(prefix=prefix):
        if isinstance(module, nn.Linear):
            found.append(Matrix(f"{path}.weight", module, "weight"))
        else:
            found += [
                Matrix(f"{path}.{attribute}", module, attribute)
                for attribute, parameter in module.named_parameters(recurse=False)
                if parameter.dim() == 3 and hasattr(module, "num_experts")
            ]
    return found


def all_matrices(model: PreTrainedModel) -> list[Matrix]:
    """Every prunable parameter of a model, block by block, under its name in the model."""
    path, blocks = blocks_of(model)
    return [matrix for index, block in enumerate(blocks) for matrix in matrices_of(block, f"{path}.{index}")]


def split_name(name: str) -> tuple[int, str]:
    """`model.layers.3.mlp.down_proj.weight` -> (3, "mlp.down_proj")."""
    match = re.search(r"\.(\d+)\.(.+?)(\.weight)?$", name)
    return (int(match[1]), match[2]) if match else (0, name)


def to_checkpoint(base: Base, model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the model's parameter names -> under the checkpoint's names and layouts (experts apart)."""
    targets = base.targets(model)
    if all(targets.get(name) == name for name in tensors):
        return tensors
    model._weight_conversions = get_model_conversion_mapping(model)  # type: ignore[assignment]
    return revert_weight_conversion(model, tensors)
