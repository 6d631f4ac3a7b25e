"""A base model: build it empty, fill any part of it.

`Base.skeleton` gives the complete model without memory for its weights; `Base.fill` reads the weights of one part of
it. transformers' own tables rename and fuse checkpoint tensors, so a family of models needs no line here.
"""

import copy
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from submodel.base.gguf.source import Gguf
from submodel.base.gguf.tokenizer.build import build_tokenizer
from submodel.base.weights import FLOATS, Safetensors, Source
from submodel.errors import SubmodelError

_ROWS = 1024  # of an embedding, read at once


class _Lazy:
    """A tensor that is read from the source when transformers' loader indexes it."""

    def __init__(self, source: Source, name: str):
        self._source, self._name = source, name

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self._source.get(self._name)


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

    def __repr__(self) -> str:
        return f"<base {self.reference}: {self.config.model_type}, {self.source.size_bytes / 1e6:,.1f} MB on disk>"

    @cached_property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(parameter.numel() for parameter in self.skeleton(self.dtype).parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stored weights (of a GGUF file that they are dequantised to, see `Gguf`)."""
        if isinstance(self.source, Gguf):
            return self.source.dtype
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

    @property
    def identity(self) -> dict[str, Any]:
        """What a store keeps of its base: `reference`, `sha256` of its weights, `size_bytes` of their files."""
        return {"reference": self.reference, "sha256": self.sha256, "size_bytes": self.source.size_bytes}

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that lies beside the weights. Raises SubmodelError when there is none."""
        if isinstance(self.source, Gguf):
            return build_tokenizer(self.source.file, self.source.fields, self.context)
        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
        except (OSError, ValueError, ImportError) as error:
            raise SubmodelError(f"{self.reference}: no tokenizer can be loaded ({first_line(error)})") from error

    def skeleton(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model with every parameter on the meta device and real non-persistent buffers (rotary tables)."""
        model = self.empty(dtype)
        for name, buffer in model.named_non_persistent_buffers():
            owner, _, attribute = name.rpartition(".")
            model.get_submodule(owner)._buffers[attribute] = torch.empty_like(buffer, device="cpu")
        for parameter in model.parameters():
            parameter._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
        model.initialize_weights()  # fills the buffers
        return model

    def empty(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model on the meta device with its buffers, a copy of one that is built once.

        Building sets torch's default dtype for a moment, and that for all threads: one that computes meanwhile would
        get tensors of another dtype. Copying does not.
        """
        if dtype not in self._built:
            self._built[dtype] = self._build(dtype)
        return copy.deepcopy(self._built[dtype])

    def _build(self, dtype: torch.dtype) -> PreTrainedModel:
        try:
            with _parameters_on_meta(), no_init_weights():
                model = AutoModelForCausalLM.from_config(
                    self.config, dtype=dtype, trust_remote_code=self.trust_remote_code
                )
        except ValueError as error:
            raise SubmodelError(f"{self.reference}: not a decoder-only model ({first_line(error)})") from error
        model.tie_weights()
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
        result: dict[str, str] = {}
        for name in self.source.names:
            target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
            if target not in known and name in known:
                target = name
            result[name] = target
        return result

    def fill(self, model: PreTrainedModel, select: Callable[[str], bool], targets: dict[str, str]) -> None:
        """Read every parameter whose name `select` accepts into `model`, in the model's dtype.

        Raises SubmodelError when one is missing from the checkpoint or has another shape.
        """
        names = [name for name, target in targets.items() if select(target)]
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
        missing = sorted(name for name in info.missing_keys if select(name) and name not in tied)
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


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module gets on the meta device, and leave all that is computed where it is.

    With torch.device("meta") torch computes rotary tables by way of its compiler, which takes seconds to load.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _untouched(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page as they are written to; numpy's come in huge pages, nearly all at once."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def first_line(error: BaseException) -> str:
    """The first line of another library's error, at most 200 characters of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _prefer_observable_experts(model: PreTrainedModel) -> None:
    """Mixtures compute one expert after another, each with a plain matrix product whose input can be seen."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"


def to_checkpoint(base: Base, model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the model's parameter names -> under the checkpoint's names and layouts (experts apart)."""
    targets = base.targets(model)
    if all(targets.get(name) == name for name in tensors):
        return tensors
    model._weight_conversions = get_model_conversion_mapping(model)  # type: ignore[assignment]
    return revert_weight_conversion(model, tensors)
