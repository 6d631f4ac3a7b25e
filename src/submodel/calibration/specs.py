"""What the command line says of text: `--domain`, and the text that is held out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from submodel.calibration.catalogue import ALIASES, DOMAINS
from submodel.calibration.documents import Text, parse_spec, read_text
from submodel.calibration.domains import Domain, TextSource
from submodel.calibration.named_text import read_named_set
from submodel.errors import SubmodelError, unknown_name


def parse_domains(specs: Sequence[str], texts: Mapping[str, str]) -> list[Domain]:
    """What several `--domain` say together.

    Args:
        specs: `NAME`; `NAME=PART[:WEIGHT][+PART[:WEIGHT]...]`, a weight being 1 if it is not given; or
            `NAME=PATH[:LANGUAGE]`, a repository (or a file), which can be a part from then on. All of `texts` if there
            is none.
        texts: text on this machine: name -> PATH[:COLUMN].

    Raises:
        SubmodelError: an unknown name, a weight that is not above 0, or a name or part that is there twice.
    """
    sources = {name: TextSource(name, spec) for name, spec in texts.items()}
    domains: list[Domain] = []
    for spec in specs or texts:
        name, equals, recipe = spec.partition("=")
        if equals and _is_path(recipe, sources):
            if name in sources:
                raise SubmodelError(f"--domain {spec!r}: {name} is there twice: give each text its own name")
            path = parse_spec(recipe)[0]
            sources[name] = TextSource(name, recipe, is_repository=path.is_dir() or not path.exists())
            domains.append(Domain(name, ((name, 1.0),)))
        else:
            domains.append(Domain(name if equals else spec, _parts(spec, recipe if equals else spec, sources)))
        if not name or (not equals and len(domains[-1].parts) > 1):
            raise SubmodelError(f"--domain {spec!r}: give it a name: NAME={recipe or spec}")
    return [replace(domain, texts=_texts_of(domain, sources)) for domain in domains]


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
    return replace(read_named_set(name, data_dir, split=split), name=spec)


def is_named_split(spec: str) -> bool:
    """Whether it is `SET/SPLIT` and no path."""
    name, _, split = spec.partition("/")
    return name in {*DOMAINS, *ALIASES} and split.isidentifier() and not Path(spec).exists()


def check_part(name: str, sources: Collection[str] = ()) -> None:
    """Raises SubmodelError unless `name` is a named set, an alias of one or a name in `sources`."""
    known = {*DOMAINS, *ALIASES, *sources}
    if name not in known:
        raise unknown_name("domain", name, known)


def _texts_of(domain: Domain, sources: Mapping[str, TextSource]) -> tuple[TextSource, ...]:
    return tuple(sources[part] for part, _ in domain.parts if part in sources)


def _is_path(recipe: str, sources: Collection[str]) -> bool:
    """Whether it is a path and not names; a directory called like a known name has to be given as ./NAME."""
    known = recipe.partition("+")[0].partition(":")[0] in {*DOMAINS, *ALIASES, *sources}
    path, _ = parse_spec(recipe)
    return not known and (path.exists() or "/" in recipe)


def _parts(spec: str, recipe: str, sources: Collection[str]) -> tuple[tuple[str, float], ...]:
    parts: dict[str, float] = {}
    for part in recipe.split("+"):
        source, colon, weight = part.partition(":")
        check_part(source, sources)
        if source in parts:
            raise SubmodelError(f"--domain {spec!r}: {source} is there twice: give it one weight")
        parts[source] = _weight(spec, weight) if colon else 1.0
    return tuple(parts.items())


def _weight(spec: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise SubmodelError(f"--domain {spec!r}: weight {text!r}: give a number above 0, such as python:2")
    return weight
