"""A domain: the text that a sub-model is for, and its token samples."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from submodel.calibration.documents import Text, read_text
from submodel.calibration.named_text import read_named_set
from submodel.calibration.packing import Budget, pack
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Samples


@dataclass(frozen=True)
class TextSource:
    """Text on this machine, which is read when a domain is loaded.

    Attributes:
        name: what it is called in a mixture.
        spec: PATH[:COLUMN], or PATH[:LANGUAGE] of a directory.
        is_repository: read as a repository, without what is vendored or generated (see `repository`).
    """

    name: str
    spec: str
    is_repository: bool = False

    def read(self) -> Text:
        """Its documents to calibrate on. Raises SubmodelError when they are not there."""
        if self.is_repository:
            return read_repository(self.name, self.spec)
        return replace(read_text(self.name, self.spec), name=self.name)


@dataclass(frozen=True, repr=False)
class Domain:
    """A domain as it was asked for.

    Attributes:
        name: what its sub-model is called.
        parts: names and their weights in tokens; none where no text is needed.
        texts: how those parts are read that are no named sets.
    """

    name: str
    parts: tuple[tuple[str, float], ...]
    texts: tuple[TextSource, ...] = ()

    @property
    def recipe(self) -> str:
        """The parts with their weights, such as `python:2+java:1`."""
        return "+".join(f"{name}:{weight:g}" for name, weight in self.parts)

    def read(self, part: str, data_dir: Path | None) -> Text:
        """The text of one of its parts; `data_dir` and errors are those of `load_domain`."""
        sources = {text.name: text for text in self.texts}
        return sources[part].read() if part in sources else read_named_set(part, data_dir)

    def __repr__(self) -> str:
        specs = {text.name: text.spec for text in self.texts}
        if len(self.parts) != 1:
            return f"<domain {self.name}: {self.recipe or 'no text'}>"
        name = self.parts[0][0]
        text = specs.get(name, name)
        return f"<domain {self.name}{'' if text == self.name else f': {text}'}>"


def load_domain(domain: Domain, tokenizer: Any, budget: Budget, *, data_dir: Path | None = None) -> Samples:
    """The samples of a domain.

    Args:
        domain: what was asked for.
        tokenizer: of the base.
        budget: how much.
        data_dir: where named sets lie; the hub if None.

    Raises:
        SubmodelError: text that is not there, has other columns, or is less than the budget (TooLittleText).
    """
    if not domain.parts:
        return Samples(domain.name, torch.empty(0, 0, dtype=torch.int64))
    texts = [(domain.read(part, data_dir), weight) for part, weight in domain.parts]
    return pack(domain.name, texts, tokenizer, budget, domain.recipe)
