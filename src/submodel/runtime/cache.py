"""Keys and values of sequences that decode side by side: rows come and go while the others go on.

All rows end at the same column, so one step writes one column: row r holds its tokens in the columns
[start of r, end), and shorter rows begin later ("left padding"). A row that is done is replaced by the last one, a
new row is copied in; no step ever waits for the longest sequence of its batch.
"""

import weakref
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from submodel.runtime.states import StateCache, has_cache, numbers_positions


class _Layer(CacheLayerMixin):
    """Keys and values (rows, heads, columns, head size) of one attention layer."""

    keys: Any
    values: Any
    is_sliding = False  # windows are cut by the attention mask

    def __init__(self, owner: "KeyValueCache"):
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys, self.values = self._owner.room(key_states), self._owner.room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        count, length = key_states.shape[0], key_states.shape[2]
        first, end = self._owner.first, self._owner.end
        self.keys[:count, :, end : end + length] = key_states
        self.values[:count, :, end : end + length] = value_states
        return self.keys[:count, :, first : end + length], self.values[:count, :, first : end + length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.end - self._owner.first + query_length, 0

    def get_seq_length(self) -> int:
        return self._owner.end - self._owner.first

    def get_max_length(self) -> int:
        return self._owner.columns


class KeyValueCache:
    """Room for `rows` sequences in `columns` columns.

    Attributes:
        starts: the first column of every row that is in use.
        end: the column that the next token is written to.
        past_key_values: what the model is given.
    """

    def __init__(self, layers: int, rows: int, columns: int):
        self.rows, self.columns = rows, columns
        self.starts: list[int] = []
        self.end = 0
        # layers know their owner weakly: a cycle would keep gigabytes until the garbage collector comes by
        self.past_key_values = Cache(layers=[_Layer(weakref.proxy(self)) for _ in range(layers)])
        self._free: list[torch.Tensor] = []

    def __len__(self) -> int:
        return len(self.starts)

    def length(self, row: int) -> int:
        """Tokens of a row so far."""
        return self.end - self.starts[row]

    def open_row(self) -> None:
        """Begin an empty row, the only one."""
        self.starts = [0]

    @property
    def first(self) -> int:
        """The first column that any row uses."""
        return min(self.starts, default=self.end)

    def room(self, states: torch.Tensor) -> torch.Tensor:
        """Zeros (rows, heads, columns, head size) for one layer's keys or values, of which `states` is a sample.

        All layers' come from one allocation: one this large goes back to the system when it is let go, many smaller
        ones of a thread do not. Zeros, since a masked column still takes part in products, and 0 * nan is nan.
        """
        shape = (self.rows, states.shape[1], self.columns, states.shape[3])
        if not self._free:
            self._free = list(states.new_zeros(2 * len(self.past_key_values.layers), *shape))
        return self._free.pop() if self._free[-1].shape == shape else states.new_zeros(shape)

    def mask(self, new: int) -> torch.Tensor:
        """Which columns from `first` on hold tokens of each row, `new` columns past the end included: int64."""
        columns = torch.arange(self.first, self.end + new)
        return (columns[None] >= torch.tensor(self.starts)[:, None]).long()

    def advance(self, count: int) -> None:
        """A forward pass has written `count` columns."""
        self.end += count

    def add(self, source: Any, row: int) -> None:
        """Copy one row of another cache of this kind (such as a prefill) in as the last row."""
        length = source.end - source.starts[row]
        if not self.starts:
            self.end = length
        self.prepare(1)
        if self.end < length:
            self._move(length - self.end)
        at = len(self.starts)
        to, taken = slice(self.end - length, self.end), slice(source.end - length, source.end)
        for layer, given in zip(self._layers(), source._layers(), strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(given.keys, given.values)
            layer.keys[at, :, to] = given.keys[row, :, taken]
            layer.values[at, :, to] = given.values[row, :, taken]
        self.starts.append(self.end - length)

    def cut(self, start: int, end: int) -> list[torch.Tensor]:
        """A copy of some columns of the only row: keys and values of each layer, (1, heads, columns, head size)."""
        parts = [states[:1, :, start:end] for layer in self._layers() for states in (layer.keys, layer.values)]
        if len({part.shape for part in parts}) == 1:  # one allocation, as in `room`
            return list(torch.stack(parts))
        return [part.clone() for part in parts]

    def paste(self, states: list[torch.Tensor]) -> None:
        """Write what `cut` gave after the columns of the only row."""
        count = states[0].shape[2]
        for layer, keys, values in zip(self._layers(), states[::2], states[1::2], strict=True):
            layer.update(keys, values)
        self.advance(count)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.starts) - 1
        if row != last:
            for layer in self._layers():
                start = self.starts[last]
                layer.keys[row, :, start : self.end] = layer.keys[last, :, start : self.end]
                layer.values[row, :, start : self.end] = layer.values[last, :, start : self.end]
            self.starts[row] = self.starts[last]
        self.starts.pop()

    def prepare(self, count: int) -> None:
        """Make room for `count` more columns, before a forward pass: when they are used up, all rows move left."""
        if self.end + count <= self.columns:
            return
        first = self.first
        if first < count:
            raise ValueError(f"{self.columns} columns do not hold the longest sequence")
        self._move(-first)

    def _move(self, by: int) -> None:
        """Move everything by so many columns, to the left if it is negative."""
        if self.end + by >= self.columns:
            raise ValueError(f"{self.columns} columns do not hold the longest sequence")
        rows, first, end = len(self.starts), self.first, self.end
        for layer in self._layers():
            for states in (layer.keys, layer.values):
                states[:rows, :, first + by : end + by] = states[:rows, :, first:end].clone()
        self.starts = [start + by for start in self.starts]
        self.end += by

    def _layers(self) -> list[_Layer]:
        return self.past_key_values.layers  # type: ignore[return-value]


def cache_for(model: Any, rows: int, columns: int) -> KeyValueCache | StateCache:
    """An empty cache for a model."""
    layers = _key_value_layers(model)
    return KeyValueCache(layers, rows, columns) if layers else StateCache(rows, columns)


def _key_value_layers(model: Any) -> int:
    """How many layers keep keys and values, if that is all that the family keeps of a text; else 0."""
    config = model.config.get_text_config(decoder=True)
    if model._is_stateful or not has_cache(model) or numbers_positions(model):
        return 0
    if not model._supports_default_dynamic_cache():
        return 0
    layers = DynamicCache(config=config).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return max(len(layers), config.num_hidden_layers) if plain else 0


def token_bytes(model: Any) -> int:
    """Keys and values of one token, in bytes; of a family that keeps other states, as if it kept them."""
    config = model.config.get_text_config(decoder=True)
    return sum(_layer_numbers(layer) for layer in config.per_layer_config) * model.dtype.itemsize


def _layer_numbers(config: Any) -> int:
    """Numbers that a layer keeps of a token, by the configuration of the layer."""
    queries = getattr(config, "num_attention_heads", None) or 1
    heads = getattr(config, "num_key_value_heads", None) or queries
    size = getattr(config, "head_dim", None) or config.hidden_size // queries
    return 2 * heads * size
