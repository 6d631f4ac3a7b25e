"""What `--domain` says: a named set, own text, a mixture of them -> samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from submodel.calibration.catalogue import ALIASES, DOMAINS, read_domain
from submodel.calibration.documents import Text, read_text
from submodel.calibration.packing import Budget, pack
from submodel.calibration.samples import Samples
from submodel.errors import SubmodelError, unknown_name


@dataclass(frozen=True)
class Domain:
    """A domain as it was asked for.

    Attributes:
        name: what its sub-model is called.
        parts: names and their weights in tokens; none where no text is needed.
    """

    name: str
    parts: tuple[tuple[str, float], ...]

    @property
    def recipe(self) -> str:
        """`python:2+java:1`."""
        return "+".join(f"{name}:{weight:g}" for name, weight in self.parts)


def parse_domain(spec: str, own: Mapping[str, str]) -> Domain:
    """`NAME`, or `NAME=PART[:WEIGHT][+PART[:WEIGHT]...]` -> Domain.

    Args:
        spec: parts are keys of DOMAINS, ALIASES or `own`; a weight is 1 if it is not given.
        own: own text: name -> PATH[:COLUMN].

    Raises:
        SubmodelError: an unknown name, a weight that is not above 0, or a part that is there twice.
    """
    name, equals, recipe = spec.partition("=")
    parts: dict[str, float] = {}
    for part in (recipe if equals else spec).split("+"):
        source, colon, weight = part.partition(":")
        if source not in {*DOMAINS, *ALIASES, *own}:
            raise unknown_name("domain", source, {*DOMAINS, *ALIASES, *own})
        if source in parts:
            raise SubmodelError(f"--domain {spec!r}: {source} is there twice: give it one weight")
        parts[source] = _weight(spec, weight) if colon else 1.0
    if not name or (not equals and len(parts) > 1):
        raise SubmodelError(f"--domain {spec!r}: give the mixture a name: NAME={spec.partition('=')[2] or spec}")
    return Domain(name, tuple(parts.items()))


def load_domain(
    domain: Domain, tokenizer: Any, budget: Budget, *, own: Mapping[str, str], data_dir: Path | None = None
) -> Samples:
    """The samples of a domain.

    Args:
        domain: what was asked for.
        tokenizer: of the base.
        budget: how much.
        own: own text: name -> PATH[:COLUMN]; a name of it comes before a named set.
        data_dir: where named sets lie; the hub if None.

    Raises:
        SubmodelError: text that is not there, has other columns, or is less than the budget.
    """

    def read(name: str) -> Text:
        return read_text(name, own[name]) if name in own else read_domain(name, data_dir)

    if not domain.parts:
        return Samples(domain.name, torch.empty(0, 0, dtype=torch.int64))
    parts = [(read(name), weight) for name, weight in domain.parts]
    return pack(domain.name, parts, tokenizer, budget, domain.recipe)


def _weight(spec: str, given: str) -> float:
    try:
        weight = float(given)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise SubmodelError(f"--domain {spec!r}: weight {given!r}: give a number above 0, such as python:2")
    return weight
