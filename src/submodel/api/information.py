"""What a store says of a sub-model without opening its base: sizes, what was removed, what was lost."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError
from submodel.store import Store, split_reference
from submodel.store.sizes import absent_parameters


@dataclass(frozen=True)
class HeldOut:
    """A sub-model and its base on the same held-out text of its domain.

    Attributes:
        perplexity, base_perplexity: of the two.
        tokens: predicted ones.
    """

    perplexity: float
    base_perplexity: float
    tokens: int

    @property
    def loss(self) -> float:
        """Nats a token that the sub-model loses."""
        return math.log(self.perplexity / self.base_perplexity)


@dataclass(frozen=True, repr=False)
class Info:
    """A sub-model as its manifest describes it.

    Attributes:
        store: the store's directory.
        name: the sub-model's name.
        manifest: the complete recipe (docs/reference/format.md).
        size_bytes: what its masks, and its own weights if it has any, take on disk.
    """

    store: Path
    name: str
    manifest: dict[str, Any]
    size_bytes: int

    @property
    def reference(self) -> str:
        """`STORE@NAME`."""
        return f"{self.store}@{self.name}"

    @property
    def method(self) -> str:
        return self.manifest["method"]

    @property
    def sparsity(self) -> float:
        """The fraction of the prunable matrices' weights that was to be removed."""
        return self.manifest["sparsity"]

    @property
    def weights(self) -> int:
        """Weights of the prunable matrices, kept or not."""
        return sum(math.prod(entry["shape"]) for entry in self._matrices)

    @property
    def parameters(self) -> int | None:
        """All parameters of the base; None where an older version made the sub-model."""
        return self.manifest.get("parameters")

    @property
    def removed(self) -> float | None:
        """The share of all parameters of the base that is removed; None where these are not known."""
        if self.parameters is None:
            return None
        return sum(math.prod(entry["shape"]) * entry["sparsity"] for entry in self._matrices) / self.parameters

    @property
    def memory_bytes(self) -> dict[str, int]:
        """About how many bytes the sub-model takes in memory in each packed format; none where `parameters` is None."""
        if self.parameters is None:
            return {}
        from submodel.runtime.packed.formats import FORMATS, SURVIVORS  # seconds, only where there is something to say

        matrices = [(tuple(entry["shape"]), entry["sparsity"]) for entry in self._matrices]
        resident = self.parameters - absent_parameters(self.manifest)
        return {name: FORMATS[name].model_bytes(resident, matrices) for name in SURVIVORS}

    @property
    def held_out(self) -> HeldOut | None:
        """What was measured on held-out text when it was extracted; None if nothing was."""
        check = self.manifest.get("check")
        return HeldOut(check["perplexity"], check["base_perplexity"], check["tokens"]) if check else None

    @property
    def _matrices(self) -> list[dict[str, Any]]:
        return list(self.manifest["matrices"].values())

    def __repr__(self) -> str:
        return f"<{self.reference}: {self.method}, sparsity {self.sparsity:g}, {self.size_bytes / 1e6:.1f} MB on disk>"


def info(model: str) -> Info:
    """What is known of one sub-model: recipe, sizes on disk and in memory, what was removed and lost.

    Args:
        model: `STORE@NAME`.

    Raises SubmodelError when there is no such store or sub-model.
    """
    store, name = open_submodel(model)
    return Info(store.path, name, store.manifest(name), store.size_bytes(name))


def list_submodels(store: str | Path) -> list[Info]:
    """`info` of every sub-model of a store, the oldest first. Raises SubmodelError when there is no store."""
    opened = Store(Path(store))
    return [Info(opened.path, name, opened.manifest(name), opened.size_bytes(name)) for name in opened.names]


def open_submodel(model: str) -> tuple[Store, str]:
    """The store and the name that `STORE@NAME` says. Raises SubmodelError for anything else."""
    parts = split_reference(model)
    if parts is None:
        raise SubmodelError(f"{model}: give STORE@NAME")
    return Store(parts[0]), parts[1]
