"""What a model passes to each of its blocks, recorded so that a block can be run again by itself.

No argument is known by name: position embeddings, a mask per layer type, caches or state that blocks share are
kept as they came. Equal tensors are kept once, since every batch of equal shape brings the same ones.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from submodel.errors import SubmodelError


class _Stop(Exception):
    """Ends a forward pass whose rest is not needed."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of one block, without its hidden states.

    Attributes:
        args, kwargs: as the model passed them.
        hidden: the keyword of the hidden states, or None when they are the first positional argument.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: str | None

    def run(self, block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """The block's new hidden states."""
        output = self.outputs(block, hidden)
        return output[0] if isinstance(output, tuple | list) else output

    def outputs(self, block: nn.Module, hidden: torch.Tensor) -> Any:
        """All that the block returns."""
        if self.hidden is None:
            return block(hidden, *self.args, **self.kwargs)
        return block(*self.args, **{**self.kwargs, self.hidden: hidden})


class Recorder:
    """Records the calls of every block for a batch of token ids.

    Args:
        model: the model with everything before its blocks loaded; the blocks themselves may be empty.
        blocks: its decoder blocks.
        fill_first: loads the first block, which is run once to see whether blocks return a tuple.
    """

    def __init__(self, model: PreTrainedModel, blocks: nn.ModuleList, fill_first: Callable[[], None]):
        self._model = model
        self._blocks = blocks
        self._fill_first = fill_first
        self._template: tuple[Any, ...] | None | str = "unknown"
        self._known: dict[tuple[Any, ...], torch.Tensor] = {}

    def record(self, ids: torch.Tensor) -> tuple[torch.Tensor, list[Call]]:
        """Token ids (batch, seq_len) -> the first block's hidden states and one Call per block."""
        calls: list[Call] = []
        first: list[torch.Tensor] = []
        last = len(self._blocks) - 1

        def recorder(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                hidden, call = self._split(args, kwargs, tuple(ids.shape))
                calls.append(call)
                if index == 0:
                    if (
                        hidden.shape[:-1] != ids.shape
                        or hidden.shape[-1] != self._model.config.get_text_config().hidden_size
                    ):
                        raise SubmodelError(
                            f"{type(self._model).__name__} passes its blocks states of shape {tuple(hidden.shape)}, "
                            "not one a token: such models cannot be walked, so no sub-model can be extracted"
                        )
                    first.append(hidden)
                    if self._template == "unknown":
                        raise _Stop
                if index == last:
                    raise _Stop
                return hidden if self._template is None else (hidden, *self._template)

            return forward

        for index, block in enumerate(self._blocks):
            block.forward = recorder(index)  # type: ignore[method-assign]
        try:
            self._model(input_ids=ids, use_cache=False)
        except _Stop:
            pass
        finally:
            for block in self._blocks:
                del block.forward
        if self._template == "unknown":
            self._learn_template(calls[0], first[0])
            return self.record(ids)
        if len(calls) != len(self._blocks):
            raise SubmodelError(
                f"{type(self._model).__name__} called {len(calls)} of its {len(self._blocks)} blocks: "
                "a model that skips or repeats blocks cannot be walked"
            )
        return first[0], calls

    def _learn_template(self, call: Call, hidden: torch.Tensor) -> None:
        self._fill_first()
        output = call.outputs(self._blocks[0], hidden)
        self._template = tuple(output[1:]) if isinstance(output, tuple | list) else None

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any], shape: tuple[int, ...]) -> tuple[Any, Call]:
        if args:
            return args[0], Call(self._intern(args[1:]), {k: self._intern(v) for k, v in kwargs.items()}, None)
        for key, value in kwargs.items():
            if isinstance(value, torch.Tensor) and value.dim() == 3 and tuple(value.shape[:2]) == shape:
                rest = {k: self._intern(v) for k, v in kwargs.items() if k != key}
                return value, Call((), rest, key)
        raise SubmodelError(f"{type(self._model).__name__} passes its blocks no hidden states that can be found")

    def _intern(self, value: Any) -> Any:
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(self._intern(v) for v in value)
        if not isinstance(value, torch.Tensor):
            return value
        content: Any = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        key = (value.dtype, tuple(value.shape), hashlib.sha256(content).digest())
        return self._known.setdefault(key, value)
