"""A text as one vector: hidden states of the base after its first blocks, averaged over the text's distinct tokens.

Every state is divided by its root mean square, so that no token outweighs others; a token that recurs counts once, so
that twenty doctest prompts say no more than one. The base is read from its checkpoint: its first blocks, and of its
embedding the rows of tokens that occur, kept for the next text.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from submodel.base.arithmetic import default_dtype
from submodel.base.matrices import blocks_of
from submodel.base.models import Base

BLOCKS = 1
_BATCH = 16  # texts at once
_ENDS = 800  # characters: of a longer text this much from both ends is read


class _Stop(Exception):
    """Ends a forward pass after the last block that is needed."""


class Pooler:
    """Makes vectors of texts.

    Args:
        base: the base; only its first blocks are read.
        blocks: how many; 0 takes the embedding alone.

    Attributes:
        size: of a vector: the model's hidden size.
        tokenizer: the base's.
        dtype: of the arithmetic.
    """

    def __init__(self, base: Base, blocks: int = BLOCKS):
        self.tokenizer = base.tokenizer
        self._base = base
        self._blocks = blocks
        self.dtype = default_dtype("cpu")
        self._model = base.skeleton(self.dtype)
        self._targets = base.targets(self._model)
        prefix, layers = blocks_of(self._model)
        self.size: int = self._model.config.get_text_config().hidden_size
        embedding = self._model.get_input_embeddings()
        self._embedding = next(f"{name}.weight" for name, m in self._model.named_modules() if m is embedding)
        head = {f"{n}.weight" for n, m in self._model.named_modules() if m is self._model.get_output_embeddings()}
        outside = {self._embedding, *head}
        first = tuple(f"{prefix}.{i}." for i in range(blocks))

        def is_needed(target: str) -> bool:
            return target.startswith(first) if target.startswith(f"{prefix}.") else target not in outside

        base.fill(self._model, is_needed, self._targets)
        base.fill_rows(self._model, self._embedding, [0], self._targets)
        self._known = torch.zeros(self._model.get_parameter(self._embedding).shape[0], dtype=torch.bool)
        self._source = next(key for key, target in self._targets.items() if target == self._embedding)
        self._lock = threading.Lock()
        self._captured: list[torch.Tensor] = []
        self._hook_on(layers)

    def pool(self, text: str) -> np.ndarray:
        """float32 (size,)."""
        ids, states = self.states(text)
        return weights_of(ids) @ states

    def states(self, text: str) -> tuple[list[int], np.ndarray]:
        """The token ids of a text, and their states float32 (tokens, size)."""
        ids = self._tokens(text)
        return ids, self._states([ids])[0]

    def pool_all(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (texts, size)."""
        vectors = np.zeros((len(texts), self.size), dtype=np.float32)
        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda at: len(tokens[at]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            for at, states in zip(batch, self._states([tokens[at] for at in batch]), strict=True):
                vectors[at] = weights_of(tokens[at]) @ states
        return vectors

    def _tokens(self, text: str) -> list[int]:
        if len(text) > 2 * _ENDS:
            text = f"{text[:_ENDS]}\n{text[-_ENDS:]}"
        return self.tokenizer(text, verbose=False)["input_ids"][: self._base.context]

    def _states(self, batch: list[list[int]]) -> list[np.ndarray]:
        """Of each sequence float32 (tokens, size). What pads a shorter one comes after it, where it cannot be seen."""
        longest = max(len(ids) for ids in batch)
        if not longest:
            return [np.zeros((0, self.size), dtype=np.float32) for _ in batch]
        ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in batch])
        hidden = self._hidden(ids)
        states = hidden / hidden.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
        return [row[: len(sequence)].numpy() for row, sequence in zip(states, batch, strict=True)]

    def _hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 (sequences, tokens, size)."""
        with self._lock, torch.inference_mode():
            new = ids.unique()
            new = new[~self._known[new]]
            if len(new):
                weight = self._model.get_parameter(self._embedding)
                weight[new] = self._base.source.get_rows(self._source, new.tolist()).to(weight.dtype)
                self._known[new] = True
            self._captured.clear()
            try:
                self._model(input_ids=ids, use_cache=False)
            except _Stop:
                pass
            return self._captured.pop().float().clone()

    def _hook_on(self, layers: torch.nn.ModuleList) -> None:
        def before(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._captured.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def after(_: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._captured.append(output[0] if isinstance(output, tuple | list) else output)
            raise _Stop

        # what enters a block is what leaves the one before it, whatever its family returns
        if self._blocks < len(layers):
            layers[self._blocks].register_forward_pre_hook(before, with_kwargs=True)
        else:
            layers[-1].register_forward_hook(after)


def weights_of(ids: Sequence[int]) -> np.ndarray:
    """float32 (tokens,), summing to 1: every distinct token counts alike, shared by its occurrences."""
    if not ids:
        return np.zeros(0, dtype=np.float32)
    _, which, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return (1 / counts[which] / len(counts)).astype(np.float32)
