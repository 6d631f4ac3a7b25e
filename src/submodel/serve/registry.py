"""How a name becomes a running model, and what that takes: the only place that knows how weights are kept."""

import math
import threading
from pathlib import Path
from typing import Any, Protocol

import torch

from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.runtime import Loaded, load
from submodel.runtime.packed.formats import SHARED, format_named, words_of
from submodel.runtime.packed.shared import SharedBase
from submodel.store import Store
from submodel.store.base import open_store_base
from submodel.store.sizes import absent_parameters

BASE = "base"
AUTO = "auto"


class Registry(Protocol):
    """Models by name."""

    @property
    def names(self) -> list[str]:
        """The base's first."""
        ...

    @property
    def tokenizer(self) -> Any:
        """Of all of them."""
        ...

    @property
    def context(self) -> int:
        """Tokens of a prompt and its continuation together, at most."""
        ...

    def describe(self, name: str) -> dict[str, Any]:
        """What the page shows of a model."""
        ...

    @property
    def shared_bytes(self) -> int:
        """What all of them share in memory, about; there whatever is loaded."""
        ...

    def size_bytes(self, name: str) -> int:
        """What loading one adds to memory, about."""
        ...

    def load(self, name: str) -> Loaded:
        """Ready to run; takes seconds. Raises SubmodelError when its files are damaged."""
        ...


class PackedRegistry:
    """The models of a store, each packed by itself: the fastest, and the smallest for few.

    Args:
        store: whose base and sub-models these are.
        weight_format: a key of FORMATS.
        base: where the base is now, if it has moved.

    Raises:
        SubmodelError: no base, another one, an unknown format, or a sub-model called base or auto.
    """

    def __init__(self, store: Path, weight_format: str, base: str | None = None, trust_remote_code: bool = False):
        self._form = format_named(weight_format)
        self.store, self._format = Store(store), weight_format
        self._trust = trust_remote_code
        for name in (BASE, AUTO):
            if name in self.store.names:
                raise SubmodelError(
                    f"{store}@{name}: the name {name} has another meaning here: extract it under another"
                )
        self._opened: dict[str, Base] = {}
        self.base = open_store_base(self.store, base, trust_remote_code, self._opened)
        self.base.skeleton(torch.bfloat16)  # built before any thread computes, as is what parameters are counted on
        self._parameters = self.base.parameters
        self._manifests = {name: self.store.manifest(name) for name in self.store.names}

    @property
    def names(self) -> list[str]:
        return [BASE, *self._manifests]

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def context(self) -> int:
        return self.base.context or 1 << 30

    @property
    def shared_bytes(self) -> int:
        return 0

    def describe(self, name: str) -> dict[str, Any]:
        about = {"size_bytes": self.size_bytes(name), "format": self._format}
        if name == BASE:
            family = self.base.config.get_text_config().model_type
            return {**about, "base": Path(self.base.reference).name, "family": family, "parameters": self._parameters}
        manifest = self._manifests[name]
        calibration, vocabulary = manifest["calibration"] or {}, manifest.get("vocabulary")
        return {
            **about,
            "mask_bytes": self.store.size_bytes(name),
            "sparsity": manifest["sparsity"],
            "pattern": manifest["pattern"],
            "method": manifest["method"],
            "domain": calibration.get("name") or name,
            "calibration_tokens": calibration.get("tokens"),
            "tokens_kept": vocabulary["head"]["kept"] if vocabulary else None,
            "tokens": vocabulary["rows"] if vocabulary else None,
            "held_out": manifest.get("check"),
        }

    def size_bytes(self, name: str) -> int:
        """From the shapes: packed matrices by the sparsity of each, all other weights as the format keeps them."""
        matrices = [(tuple(entry["shape"]), entry["sparsity"]) for entry in self._entries(name)]
        absent = 0 if name == BASE else absent_parameters(self._manifests[name])
        return self._form.model_bytes(self._parameters - absent, matrices, pruned=name != BASE)

    def _entries(self, name: str) -> list[dict[str, Any]]:
        """The prunable matrices; of the base those of any sub-model."""
        manifests = self._manifests.values() if name == BASE else [self._manifests[name]]
        return list(next(iter(manifests))["matrices"].values()) if manifests else []

    def load(self, name: str) -> Loaded:
        reference = next(iter(self._opened)) if name == BASE else f"{self.store.path}@{name}"
        base = None if name == BASE else next(iter(self._opened))
        return load(
            reference,
            base=base,
            trust_remote_code=self._trust,
            opened=self._opened,
            weight_format=self._format,
        )


class SharedRegistry(PackedRegistry):
    """The base's weights once in memory, every sub-model as a mask over them: the smallest for many.

    A sub-model with weights of its own cannot share them and is packed beside them.

    Args, Raises: as of PackedRegistry; `weight_format` is one of SHARED.
    """

    def __init__(self, store: Path, weight_format: str, base: str | None = None, trust_remote_code: bool = False):
        super().__init__(store, weight_format, base, trust_remote_code)
        self._weights: SharedBase | None = None
        self._loading = threading.Lock()

    @property
    def shared_bytes(self) -> int:
        return super().size_bytes(BASE)

    def size_bytes(self, name: str) -> int:
        if name == BASE:
            return 0
        return super().size_bytes(name) if self._rewritten(name) else sum(map(_mask_bytes, self._entries(name)))

    def load(self, name: str) -> Loaded:
        if name != BASE and self._rewritten(name):
            return super().load(name)
        with self._loading:
            self._weights = self._weights or SharedBase(self.base, self._format)
        return self._weights.dense if name == BASE else self._weights.submodel(self.store, name)

    def _rewritten(self, name: str) -> bool:
        return "weights" in self._manifests[name]


def open_registry(
    store: Path, weight_format: str, base: str | None = None, trust_remote_code: bool = False
) -> PackedRegistry:
    """The models of a store in a format. Raises SubmodelError as the two kinds do."""
    kind = SharedRegistry if weight_format in SHARED else PackedRegistry
    return kind(store, weight_format, base, trust_remote_code)


def _mask_bytes(entry: dict[str, Any]) -> int:
    """What the mask of a matrix takes in memory."""
    *rows, cols = entry["shape"]
    return math.prod(rows) * words_of(cols) * 8
