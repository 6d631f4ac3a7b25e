"""What `--domain` says: a named set, own text, a repository, a mixture of them -> samples. And what is held out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from submodel.calibration.catalogue import ALIASES, DOMAINS, read_domain
from submodel.calibration.documents import Text, parse_spec, read_text
from submodel.calibration.packing import Budget, pack
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Samples
from submodel.errors import SubmodelError, unknown_name

Reader = Callable[[], Text]


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


def parse_domains(specs: Sequence[str], own: Mapping[str, str]) -> tuple[list[Domain], dict[str, Reader]]:
    """What several `--domain` say together.

    Args:
        specs: `NAME`; `NAME=PART[:WEIGHT][+PART[:WEIGHT]...]`, a weight being 1 if it is not given; or
            `NAME=PATH[:LANGUAGE]`, a repository (or a file), which can be a part from then on. All of `own` if there
            is none.
        own: own text: name -> PATH[:COLUMN].

    Returns:
        The domains, and how to read the text of those names that are no named sets.

    Raises:
        SubmodelError: an unknown name, a weight that is not above 0, or a name or part that is there twice.
    """
    readers: dict[str, Reader] = {name: partial(read_text, name, spec) for name, spec in own.items()}
    domains: list[Domain] = []
    for spec in specs or own:
        name, equals, recipe = spec.partition("=")
        if equals and _is_repository(recipe, readers):
            if name in readers:
                raise SubmodelError(f"--domain {spec!r}: {name} is there twice: give each text its own name")
            file = parse_spec(recipe)[0].is_file()
            readers[name] = partial(read_text if file else read_repository, name, recipe)
            domains.append(Domain(name, ((name, 1.0),)))
        else:
            domains.append(Domain(name if equals else spec, _parts(spec, recipe if equals else spec, readers)))
        if not name or (not equals and len(domains[-1].parts) > 1):
            raise SubmodelError(f"--domain {spec!r}: give it a name: NAME={recipe or spec}")
    return domains, readers


def read_held_out(spec: str, data_dir: Path | None = None) -> Text:
    """Text to evaluate on: `SET/SPLIT`, a named set's other split in the template that it is calibrated on, or
    `PATH[:COLUMN]`, of a source tree its held-out files. What is there as a path is read as one.

    Args:
        spec: such as translation/test or notes.jsonl:body.
        data_dir: where named sets lie; the hub if None.

    Raises:
        SubmodelError: it is not there, has other columns, or no text.
    """
    if not is_named_split(spec):
        return read_text(spec, spec, "held-out")
    name, _, split = spec.partition("/")
    return replace(read_domain(name, data_dir, split=split), name=spec)


def is_named_split(spec: str) -> bool:
    """Whether it is `SET/SPLIT` and no path."""
    name, _, split = spec.partition("/")
    return name in {*DOMAINS, *ALIASES} and split.isidentifier() and not Path(spec).exists()


def _is_repository(recipe: str, readers: Mapping[str, Reader]) -> bool:
    """Whether it is a path and not names; a directory called like a known name has to be given as ./NAME."""
    known = recipe.partition("+")[0].partition(":")[0] in {*DOMAINS, *ALIASES, *readers}
    path, _ = parse_spec(recipe)
    return not known and (path.exists() or "/" in recipe)


def _parts(spec: str, recipe: str, readers: Mapping[str, Reader]) -> tuple[tuple[str, float], ...]:
    parts: dict[str, float] = {}
    for part in recipe.split("+"):
        source, colon, weight = part.partition(":")
        if source not in {*DOMAINS, *ALIASES, *readers}:
            raise unknown_name("domain", source, {*DOMAINS, *ALIASES, *readers})
        if source in parts:
            raise SubmodelError(f"--domain {spec!r}: {source} is there twice: give it one weight")
        parts[source] = _weight(spec, weight) if colon else 1.0
    return tuple(parts.items())


def load_domain(
    domain: Domain, tokenizer: Any, budget: Budget, *, readers: Mapping[str, Reader], data_dir: Path | None = None
) -> Samples:
    """The samples of a domain.

    Args:
        domain: what was asked for.
        tokenizer: of the base.
        budget: how much.
        readers: own text; a name of it comes before a named set.
        data_dir: where named sets lie; the hub if None.

    Raises:
        SubmodelError: text that is not there, has other columns, or is less than the budget (TooLittleText).
    """
    if not domain.parts:
        return Samples(domain.name, torch.empty(0, 0, dtype=torch.int64))
    texts = [read_part(name, readers, data_dir) for name, _ in domain.parts]
    weights = [weight for _, weight in domain.parts]
    return pack(domain.name, list(zip(texts, weights, strict=True)), tokenizer, budget, domain.recipe)


def read_part(name: str, readers: Mapping[str, Reader], data_dir: Path | None) -> Text:
    """The text of one part of a domain (see `load_domain`)."""
    return readers[name]() if name in readers else read_domain(name, data_dir)


def _weight(spec: str, given: str) -> float:
    try:
        weight = float(given)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise SubmodelError(f"--domain {spec!r}: weight {given!r}: give a number above 0, such as python:2")
    return weight
