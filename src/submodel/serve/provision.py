"""How a name becomes a running model, and what that takes: the only place that knows how weights are kept."""

from pathlib import Path
from typing import Any, Protocol

import torch

from submodel.errors import SubmodelError
from submodel.models import Base
from submodel.runtime import Loaded, load
from submodel.runtime.load import open_store_base
from submodel.runtime.packed import FORMATS, format_named
from submodel.store import Store

BASE = "base"
AUTO = "auto"


class Provision(Protocol):
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

    def size_bytes(self, name: str) -> int:
        """What loading one adds to memory, about."""
        ...

    def load(self, name: str) -> Loaded:
        """Ready to run; takes seconds. Raises SubmodelError when its files are damaged."""
        ...


class PackedProvision:
    """Each model packed by itself: the smallest and fastest for few.

    Args:
        store: whose base and sub-models these are.
        weight_format: a key of FORMATS.
        base: where the base is now, if it has moved.

    Raises:
        SubmodelError: no base, another one, an unknown format, or a sub-model called base or auto.
    """

    def __init__(self, store: Path, weight_format: str, base: str | None = None, trust_remote_code: bool = False):
        format_named(weight_format)
        self.store, self._format = Store(store), weight_format
        self._trust = trust_remote_code
        for name in (BASE, AUTO):
            if name in self.store.names:
                raise SubmodelError(
                    f"{store}@{name}: the name {name} has another meaning here: extract it under another"
                )
        self._opened: dict[str, Base] = {}
        self.base = open_store_base(self.store, base, trust_remote_code, self._opened)
        self.base.skeleton(torch.bfloat16)  # built before any thread computes
        self._manifests = {name: self.store.manifest(name) for name in self.store.names}

    @property
    def names(self) -> list[str]:
        return [BASE, *self._manifests]

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def context(self) -> int:
        return getattr(self.base.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    @property
    def _parameters(self) -> int:
        return self.store.base["size_bytes"] // self.base.dtype.itemsize

    def describe(self, name: str) -> dict[str, Any]:
        about = {"size_bytes": self.size_bytes(name), "format": self._format}
        if name == BASE:
            family = self.base.config.get_text_config().model_type
            return {**about, "base": Path(self.base.reference).name, "family": family, "parameters": self._parameters}
        manifest = self._manifests[name]
        calibration = manifest["calibration"] or {}
        return {
            **about,
            "mask_bytes": self.store.size_bytes(name),
            "sparsity": manifest["sparsity"],
            "pattern": manifest["pattern"],
            "method": manifest["method"],
            "domain": calibration.get("name") or name,
            "calibration_tokens": calibration.get("tokens"),
        }

    def size_bytes(self, name: str) -> int:
        """From the shapes: packed matrices by the sparsity of each, all other weights as the format keeps them."""
        form = FORMATS[self._format]
        entries: dict[str, Any] = next(iter(self._manifests.values()))["matrices"] if self._manifests else {}
        if name != BASE:
            entries = self._manifests[name]["matrices"]
        size, weights = 0.0, 0
        for entry in entries.values():
            *_, cols = entry["shape"]
            count = 1
            for n in entry["shape"]:
                count *= n
            weights += count
            masked = form.masked and name != BASE
            bits = form.bits if masked else FORMATS[form.rest].bits
            words = count // cols * -(-cols // 64)
            kept = count * (1 - entry["sparsity"]) if masked else count if bits == 16 else 64 * words
            size += kept * bits / 8 + masked * words * 8 + (bits < 16) * words * 2
        rest = max(0, self._parameters - weights)
        return int(size + rest * (1.1 if FORMATS[form.rest].bits == 8 else 2))

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
