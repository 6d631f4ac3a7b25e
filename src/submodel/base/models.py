"""A base model: build it empty, fill any part of it.

`Base.skeleton` gives the complete model without memory for its weights; `Base.fill` reads the weights of one part of
it. transformers' own tables rename and fuse checkpoint tensors, so a family of models needs no line here.
"""

import copy
import json
import mmap
import re
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
    Transpose,
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import no_init_weights
from transformers.modeling_utils import LoadStateDictConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from submodel.base.gguf.source import Gguf
from submodel.base.known_tokens import within
from submodel.base.weights import FLOATS, Safetensors, Source
from submodel.errors import SubmodelError

_ROWS = 1024  # of an embedding, read at once
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


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
        self._transposed: set[str] = set()  # weights of a block that the checkpoint has with rows and columns changed
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
        config = self.config.get_text_config()
        limits = (getattr(config, name, None) for name in _CONTEXT)
        return next((limit for limit in limits if isinstance(limit, int)), None)

    @cached_property
    def generation_settings(self) -> dict[str, Any]:
        """What generation_config.json says. Raises SubmodelError when it cannot be read."""
        file = self.path / "generation_config.json"
        if not file.is_file():
            return {}
        try:
            settings = json.loads(file.read_text())
            GenerationConfig.from_dict(dict(settings))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise SubmodelError(
                f"{self.reference}: its generation_config.json cannot be read ({first_line(error)}): fetch it again, "
                "or remove it"
            ) from error
        return settings

    def add_generation_config(self, model: PreTrainedModel) -> None:
        """Give a model the generation settings of the checkpoint, such as the tokens that end a text."""
        if self.generation_settings:
            model.generation_config = GenerationConfig.from_dict(dict(self.generation_settings))

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
        try:
            if isinstance(self.source, Gguf):
                from submodel.base.gguf.tokenizer.build import build_tokenizer

                tokenizer = build_tokenizer(self.source.file, self.source.fields)
            else:
                tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
        except SubmodelError:
            raise
        except Exception as error:  # the tokenizers library raises bare ones for files that it does not understand
            raise SubmodelError(f"{self.reference}: no tokenizer can be loaded ({first_line(error)})") from error
        rows = getattr(self.config.get_text_config(), "vocab_size", None)
        return tokenizer if rows is None else within(tokenizer, rows, self.reference)

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
        if self._holds_both(model):
            for config in (self.config, self.config.get_text_config()):
                config.tie_word_embeddings = False
            return self._build(dtype)
        _keep_in_float32(model, dtype)
        if not isinstance(self.source, Gguf):
            self._linear_from_conv1d(model)
        if getattr(model.config, "rescale_every", 0):
            model.config.rescale_every = 0  # RWKV halves weights in place against float16's range; output is the same
        _prefer_observable_experts(model)
        return model.eval()

    def conversions(self, model: PreTrainedModel) -> list[Any]:
        """How the checkpoint's tensors become parameters, by transformers' tables and for what is a linear here."""
        return [*get_model_conversion_mapping(model), *(_transposed(path) for path in self._transposed)]

    def _linear_from_conv1d(self, model: PreTrainedModel) -> None:
        """GPT-2's layers, whose weights are (inputs, outputs), become linears, so that all else sees one kind."""
        for path, module in [(path, module) for path, module in model.named_modules() if isinstance(module, Conv1D)]:
            inputs, outputs = module.weight.shape
            linear = nn.Linear(inputs, outputs, device="meta", dtype=module.weight.dtype)
            model.set_submodule(path, linear)
            self._transposed.add(re.split(r"\.\d+\.", path)[-1])

    def _holds_both(self, model: PreTrainedModel) -> bool:
        """Whether the config ties embedding and output head, and the checkpoint holds a different matrix for each.

        The checkpoint is right then, as it is for `transformers`.
        """
        pair = self._tied_pair(model)
        if pair is None or isinstance(self.source, Gguf):
            return False
        stored = {target: name for name, target in self._renamed(model).items()}
        head, embedding = (stored.get(name) for name in pair)
        if head is None or embedding is None or head == embedding:
            return False
        return not torch.equal(self.source.get(head), self.source.get(embedding))

    def _tied_pair(self, model: PreTrainedModel) -> tuple[str, str] | None:
        """The output head's and the embedding's parameters, where the config makes them one."""
        names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
        head, embedding = (
            names.get(id(module)) for module in (model.get_output_embeddings(), model.get_input_embeddings())
        )
        tied = getattr(model, "all_tied_weights_keys", {})
        return (head, embedding) if head and embedding and tied.get(head) == embedding else None

    def targets(self, model: PreTrainedModel) -> dict[str, str]:
        """Checkpoint tensor name -> the model's parameter it becomes (the first one, if it becomes several).

        A tied matrix that is stored as the output head alone becomes the embedding.
        """
        targets = self._renamed(model)
        pair = self._tied_pair(model)
        if pair is not None and pair[1] not in targets.values():
            targets = {name: pair[1] if target == pair[0] else target for name, target in targets.items()}
        return targets

    def _renamed(self, model: PreTrainedModel) -> dict[str, str]:
        if isinstance(self.source, Gguf):
            return {name: name for name in self.source.names}
        mapping = self.conversions(model)
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
        pair = self._tied_pair(model)
        moved = None  # the output head that becomes the embedding
        if pair is not None and self._renamed(model).get(pair[0]) == pair[0] and targets.get(pair[0]) == pair[1]:
            moved = pair[0]
        mapping: Any = None if isinstance(self.source, Gguf) else self.conversions(model)
        shown = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            info, _ = convert_and_load_state_dict_in_model(
                model,
                {targets[name] if name == moved else name: _Lazy(self.source, name) for name in names},
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
        self.add_generation_config(model)
        return cast(PreTrainedModel, model.to(device))  # type: ignore[arg-type]


def _transposed(path: str) -> WeightConverter:
    """For a weight of every block, by its module's path in the block."""
    name = f"{path}.weight"
    return WeightConverter(source_patterns=name, target_patterns=name, operations=[Transpose()])


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Put every parameter that a module gets on the meta device, and leave all that is computed where it is.

    With torch.device("meta") torch computes rotary tables by way of its compiler, which takes seconds to load.
    """
    register = nn.Module.register_parameter

    def register_on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    setattr(nn.Module, "register_parameter", register_on_meta)  # noqa: B010
    try:
        yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010


def _untouched(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page as they are written to; numpy's come in huge pages, nearly all at once."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def first_line(error: BaseException) -> str:
    """The first line of another library's error, at most 200 characters of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """What a family keeps in float32 when the rest is in 16 bits, such as the bias that balances its experts."""
    patterns = [name.replace("*", ".*") for name in model._get_dtype_plan(dtype)]
    if not patterns:
        return
    kept = re.compile("|".join(patterns))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if kept.search(name) and tensor.is_floating_point():
            tensor.data = tensor.data.float()


def _prefer_observable_experts(model: PreTrainedModel) -> None:
    """Mixtures compute one expert after another, each with a plain matrix product whose input can be seen."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"


def to_checkpoint(base: Base, model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under the model's parameter names -> under the checkpoint's names and layouts (experts apart).

    Raises SubmodelError for a tensor that the checkpoint has no place for.
    """
    sources: dict[str, list[str]] = {}
    for name, target in base.targets(model).items():
        sources.setdefault(target, []).append(name)
    conversions: list[Any] = [] if isinstance(base.source, Gguf) else base.conversions(model)
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    result: dict[str, torch.Tensor] = {}
    converted: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        # one tensor that is only called otherwise, or several, or one in another layout
        [first, *others] = sources.get(name, [""])
        if first and not others and not any(entry.rename_source_key(first)[1] for entry in converters):
            result[first] = tensor
        else:
            converted[name] = tensor
    if converted:
        model._weight_conversions = conversions  # type: ignore[assignment]
        ends = {_end(name): name for target in converted for name in sources.get(target, [])}
        for name, tensor in revert_weight_conversion(model, converted).items():
            if (source := ends.get(_end(name))) is None:
                raise SubmodelError(f"{base.reference}: its checkpoint has no tensor for {name}")
            result[source] = tensor
    return result


def _end(name: str) -> str:
    """A tensor's name from the number of its block on; what is before differs between a model and its checkpoints."""
    match = re.search(r"\.(\d+\..+)$", name)
    return match[1] if match else name
