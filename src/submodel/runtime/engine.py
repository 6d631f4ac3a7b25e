"""A whole token in one native call, for packed models of the LLaMA kind; others take a step through `transformers`.

The engine reads the very matrices that the model's own layers hold, and writes the same cache, so prefill
through the model and decoding through the engine take turns freely.
"""

import ctypes
from typing import Any

import torch
from transformers.modeling_utils import PreTrainedModel

from submodel.base import native
from submodel.runtime.cache import KeyValueCache
from submodel.runtime.packed.head import DomainHead
from submodel.runtime.packed.linear import PackedLinear
from submodel.runtime.vocabulary import More

FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
_ACTIVATIONS = {"silu": 0, "gelu_pytorch_tanh": 1, "gelu_new": 1}
_MOST_ROWS = {"amx": 64}  # more sequences are faster through torch's product of unpacked panels; else 16


class Engine:
    """Decodes with a packed model. Make it with `engine_of`.

    Attributes:
        vocabulary: how many logits a token gets; those without a row of a `DomainHead` are -inf.
        most_rows: sequences that it is good for; more are faster through the model.
    """

    def __init__(self, model: Any, plan: native.Model, rotations: list[str], held: list[Any]):
        head: Any = model.get_output_embeddings()
        self.vocabulary = head.out_features
        self._kept = head.ids if isinstance(head, DomainHead) else None
        self.most_rows = _MOST_ROWS.get(native.instruction_set(), 16)
        self._plan = plan
        self._held = held  # what the plan points to
        self._embed, self._rotary = model.get_input_embeddings(), model.model.rotary_emb
        self._rotations = rotations  # kinds of layers with one of their own; none if all share one

    def step(
        self, ids: torch.Tensor, positions: torch.Tensor, cache: KeyValueCache, *, alone: bool = False, more: More = ()
    ) -> torch.Tensor:
        """Write one token of every row into the cache; the caller advances it.

        Args:
            ids, positions: int64 (rows, 1).
            cache: of at least `rows` sequences, with room for a column.
            alone: every row's logits are, bit for bit, those it gets by itself; many rows then take up to twice as long
                where the processor has tiles.
            more: of every row, tokens that it may say beside those of a `DomainHead`.

        Returns:
            float32 logits (rows, vocabulary).
        """
        self._plan.alone = alone
        embedded = self._embed(ids)
        x = embedded[:, 0].float().contiguous()
        kinds = [(kind,) for kind in self._rotations] or [()]
        turns = [self._rotary(embedded.float(), positions, *kind) for kind in kinds]
        cosine, sine = (torch.stack([t[:, 0].float() for t in both]) for both in zip(*turns, strict=True))
        layers: Any = cache.past_key_values.layers
        pointers = ctypes.c_void_p * len(layers)
        keys = pointers(*(layer.keys.data_ptr() for layer in layers))
        values = pointers(*(layer.values.data_ptr() for layer in layers))
        starts = (ctypes.c_int64 * len(ids))(*cache.starts)
        width = self.vocabulary if self._kept is None else len(self._kept)
        logits = torch.empty(len(ids), width, dtype=torch.float32)
        matrices, places, beside = _pointers(more)
        native.library().sm_step(
            ctypes.byref(self._plan),
            len(ids),
            x.data_ptr(),
            cosine.data_ptr(),
            sine.data_ptr(),
            keys,
            values,
            cache.columns,
            starts,
            cache.end,
            logits.data_ptr(),
            matrices,
            places,
            torch.get_num_threads(),
        )
        if self._kept is None:
            return logits
        complete = torch.full((len(ids), self.vocabulary), float("-inf"))
        complete[:, self._kept] = logits
        for row, tokens, found in beside:
            complete[row, tokens] = found
        return complete


def _pointers(more: More) -> tuple[Any, Any, list[tuple[int, torch.Tensor, torch.Tensor]]]:
    """For the kernel: the matrices and places of logits of each row; then (row, ids, logits) of those that have any."""
    if not any(more):
        return None, None, []
    matrices, places = (ctypes.c_void_p * len(more))(), (ctypes.c_void_p * len(more))()
    beside: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    for row, one in enumerate(more):
        if one is not None and one.rows is not None:
            found = torch.empty(len(one.ids), dtype=torch.float32)
            matrices[row], places[row] = ctypes.addressof(one.rows.native), found.data_ptr()
            beside.append((row, one.ids, found))
    return matrices, places, beside


def engine_of(model: PreTrainedModel) -> Engine | None:
    """The engine for a packed model, or None where there is none: another family, or no native kernels."""
    config: Any = model.config
    head: Any = model.get_output_embeddings()
    known = (
        config.model_type in FAMILIES
        and isinstance(head, PackedLinear | DomainHead)
        and head.bias is None
        and head.packed.has_kernels
    )
    if not known or not native.library():
        return None
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _ACTIVATIONS or getattr(config, "use_bidirectional_attention", None):
        return None
    held: list[Any] = []

    def floats(tensor: torch.Tensor | None, plus: float = 0.0) -> int | None:
        if tensor is None:
            return None
        held.append(tensor.detach().float().contiguous() + plus)
        return held[-1].data_ptr()

    def linear(module: PackedLinear) -> native.Linear:
        return native.Linear(ctypes.pointer(module.packed.native), floats(module.bias))

    # where families differ: norms around the layers, rotations by kind of layer
    decoder: Any = model.model
    gemma = config.model_type.startswith("gemma")
    plus = 1.0 if gemma else 0.0  # its norms are weighted by 1 + weight
    sandwich = config.model_type in ("gemma2", "gemma3_text")  # norms before and after attention and MLP
    rotations = sorted(set(config.layer_types)) if config.model_type == "gemma3_text" else []
    # matrices and norms of every block, in the order of `native.Block`
    blocks = (native.Block * len(decoder.layers))()
    for i, layer in enumerate(decoder.layers):
        attention, mlp = layer.self_attn, layer.mlp
        modules = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        modules += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        if not all(isinstance(module, PackedLinear) and module.packed.has_kernels for module in modules):
            return None
        norms = [layer.input_layernorm, layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm]
        norms += [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        norms += [layer.post_attention_layernorm, layer.post_feedforward_layernorm] if sandwich else [None, None]
        mistral = config.sliding_window if config.model_type == "mistral" else None
        window = mistral or getattr(attention, "sliding_window", None) or 0
        weights = [None if norm is None else floats(norm.weight, plus) for norm in norms]
        rotation = rotations.index(attention.layer_type) if rotations else 0
        blocks[i] = native.Block(*map(linear, modules), *weights, window, rotation)
    # the model: sizes, constants, then what is around the blocks
    first = decoder.layers[0].self_attn
    plan = native.Model(
        len(decoder.layers),
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        first.head_dim,
        config.intermediate_size,
        _ACTIVATIONS[activation],
        0,
        config.rms_norm_eps,
        first.scaling,
        (config.attn_logit_softcapping or 0) if config.model_type == "gemma2" else 0,
        getattr(config, "final_logit_softcapping", None) or 0,
        blocks,
        floats(decoder.norm.weight, plus),
        _rows(head),
    )
    held += [blocks, model]
    return Engine(model, plan, rotations, held)


def _rows(head: PackedLinear | DomainHead) -> native.Rows:
    """The rows of a head that are multiplied: of a shared one the kept runs, else all that it has."""
    matrix = ctypes.pointer(head.packed.native)
    if not isinstance(head, DomainHead) or head.runs is None:
        return native.Rows(matrix, None, 0, 0)
    return native.Rows(matrix, head.runs.data_ptr(), len(head.runs), len(head.ids))
