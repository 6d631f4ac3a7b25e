"""A study's file: TOML -> Study, checked as far as it can be before any cell runs (docs/guide/studies.md).

What lets foreign code run (--trust-remote-code, --unsafe-code) cannot be asked for in the file, only on the command
line: a study comes from others more often than a command does.
"""

import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from submodel.base.models import Base
from submodel.base.opening import is_hub_id, open_base
from submodel.calibration.forms import FORMS
from submodel.calibration.packing import SHAPES
from submodel.errors import SubmodelError, unknown_name
from submodel.extract.steps import UNIFORM, parse, reads_text
from submodel.prune.sparsity import Sparsity, parse_sparsity
from submodel.runtime.packed.formats import FORMATS, GRIDS
from submodel.store import check_name
from submodel.study.data import read_data
from submodel.study.grid import Options, Study
from submodel.tasks import parse_task
from submodel.tasks.cell import Task


@dataclass(frozen=True)
class Kind:
    """What a value must be: in words, and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _whole(least: int) -> Kind:
    return Kind(f"a whole number from {least}", lambda v: isinstance(v, int) and v is not True and v >= least)


def _one_of(known: Iterable[str]) -> Kind:
    return Kind(" or ".join(known), lambda v: v in list(known))


_TEXT = Kind("a string", lambda v: isinstance(v, str) and bool(v))
_FLAG = Kind("true or false", lambda v: isinstance(v, bool))
_NUMBER = Kind("a number from 0", lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v >= 0)
_DTYPE = Kind("bfloat16, float16 or float32", lambda v: v in ("bfloat16", "float16", "float32"))
_COUNTS = Kind("a list of whole numbers", lambda v: isinstance(v, list) and bool(v) and all(map(_whole(1).fits, v)))
_LIST = Kind("a list with something in it", lambda v: isinstance(v, list) and bool(v))
_TABLE = Kind("a table", lambda v: isinstance(v, dict))

# the options of extract and eval that a file may set; the study gives the others itself
CALIBRATION: dict[str, Kind] = {
    "tokens": _whole(1),
    "samples": _whole(1),
    "seq_len": _whole(2),
    "shape": _one_of(SHAPES),
    "form": _one_of(FORMS),
    "seed": _whole(0),
    "dtype": _DTYPE,
    "batch_tokens": _whole(1),
    "device": _TEXT,
}
EVALUATION: dict[str, Kind] = {
    "limit": _whole(1),
    "tokens": _whole(1),
    "seq_len": _whole(2),
    "samples": _whole(1),
    "k": _COUNTS,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "max_tokens": _whole(1),
    "chat": _FLAG,
    "slots": _whole(1),
    "format": _one_of(FORMATS),
    "decode": _FLAG,
    "wordnet": _TEXT,
    "seed": _whole(0),
    "dtype": _DTYPE,
    "device": _TEXT,
}
_TOP: dict[str, Kind] = {
    "title": _TEXT,
    "data": _TEXT,
    "models": _TABLE,
    "texts": _TABLE,
    "domains": _TABLE,
    "calibration": _TABLE,
    "prune": _TABLE,
    "tasks": _TABLE,
}
_DELETED = ("minutes", "rate", "openings", "weighting")
_NO_GRID = "none"
_DOMAINS = "domains"
_PRUNE: dict[str, Kind] = {
    "methods": _LIST,
    "sparsities": _LIST,
    "allocations": _LIST,
    "grids": _LIST,
}


def read_study(file: Path, settings: Sequence[str] = ()) -> Study:
    """Read and check a study.

    Args:
        file: the TOML file.
        settings: `KEY=VALUE` with a dotted key, such as `models.smol=PATH`: put into the file's place. The value is
            TOML, or a plain string; a path of `models` or `data` starts in the working directory.

    Raises:
        SubmodelError: the first thing that is unknown, of a wrong kind or not there.
    """
    document = _parse(file)
    for setting in settings:
        _set(document, setting)
    where = str(file)
    _check(where, document, _TOP)
    for key in ("models", "tasks"):
        if not document.get(key):
            raise SubmodelError(f"{where}: no [{key}]: name one or more")
    prune = document.get("prune", {})
    _check(f"{where}, [prune]", prune, _PRUNE)
    methods = tuple(map(str, prune.get("methods", ())))
    for name in methods:
        if methods.count(name) > 1:
            raise SubmodelError(f"{where}, [prune]: method {name!r} is there twice: drop one")
    allocations = tuple(map(str, prune.get("allocations", [UNIFORM])))
    for name in allocations:
        if allocations.count(name) > 1:
            raise SubmodelError(f"{where}: allocation {name!r} is there twice: drop one")
    try:
        for method, allocation in product(methods, allocations):
            parse(method, allocation)
    except SubmodelError as error:
        raise SubmodelError(f"{where}, [prune]: {error}") from error
    domains = _names(where, "domains", document.get("domains", {}))
    named = _axis(where, "grid", prune.get("grids", [_NO_GRID]), (_NO_GRID, *GRIDS))
    grids = tuple(None if name == _NO_GRID else name for name in named)
    reading = [method for method, grid in product(methods, grids) if reads_text(method, UNIFORM, grid)]
    if reading and not domains:
        raise SubmodelError(f"{where}: {reading[0]} needs text to calibrate on: name it under [domains]")
    calibration = document.get("calibration", {})
    _check(f"{where}, [calibration]", calibration, CALIBRATION)
    root = file.resolve().parent
    study = Study(
        file=file,
        title=document.get("title", file.stem),
        models={name: _located(root, path) for name, path in _names(where, "models", document["models"]).items()},
        data=Path(_located(root, document.get("data", "."))),
        named_sets="data" in document,
        texts=_names(where, "texts", document.get("texts", {})),
        domains=domains,
        calibration=calibration,
        methods=methods,
        sparsities=_sparsities(where, prune.get("sparsities", [0.5] if methods else [])),
        allocations=allocations,
        grids=grids,
        tasks={name: _task(f"{where}, [tasks.{name}]", name, entry) for name, entry in document["tasks"].items()},
        measured=_measured(where, document["tasks"], domains),
    )
    texts_read, data_read = read_data(study)
    return replace(study, texts_read=texts_read, data_read=data_read)


def open_bases(study: Study, trust_remote_code: bool = False) -> dict[str, Base | None]:
    """Model -> its base, opened; None for a hub id, which the first cell fetches.

    Raises SubmodelError when a local model cannot be opened, or is neither there nor a hub id.
    """
    return {
        name: open_base(path, trust_remote_code) if _is_local(study, name, path) else None
        for name, path in study.models.items()
    }


def _is_local(study: Study, name: str, path: str) -> bool:
    if Path(path).exists():
        return True
    if is_hub_id(path):
        return False
    key = _setting("models", name)
    raise SubmodelError(
        f"{study.file}: model {name}: {path}: no such file or directory: give another with --set {key}=PATH"
    )


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubmodelError(f"{file}: cannot be read ({error.strerror}): give a study's TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SubmodelError(f"{file}: not TOML ({error}): docs/guide/studies.md shows a study") from error


def _set(document: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    names = _key(key)
    if not equals or not names or not text:
        raise SubmodelError(f"--set {setting!r}: give KEY=VALUE with a dotted key, such as models.smol=PATH")
    *tables, last = names
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if (tables[:1] == ["models"] or key == "data") and Path(text).expanduser().exists():
        value = str(Path(text).expanduser().resolve())
    for name in tables:
        document = document.setdefault(name, {})
        if not isinstance(document, dict):
            raise SubmodelError(f"--set {setting!r}: {name} is no table in the file")
    document[last] = value


def _key(dotted: str) -> list[str]:
    """A dotted key, parts quoted as in TOML -> its names; none if it is no key."""
    try:
        table: Any = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return []
    names: list[str] = []
    while isinstance(table, dict) and len(table) == 1:
        (name, table), *_ = table.items()
        names.append(name)
    return names


def _setting(table: str, name: str) -> str:
    """A key as `--set` takes it."""
    return f"{table}.{name}" if _key(f"{table}.{name}") == [table, name] else f"'{table}.\"{name}\"'"


def _check(where: str, table: Mapping[str, Any], known: Mapping[str, Kind]) -> None:
    for key, value in table.items():
        if key in _DELETED and key not in known:
            raise SubmodelError(f"{where}: {key} was removed (docs/results/settled.md): drop it")
        if key not in known:
            raise unknown_name(f"key in {where}:", key, known)
        if not known[key].fits(value):
            raise SubmodelError(f"{where}: {key} = {value!r}: give {known[key].words}")


def _names(where: str, kind: str, table: Mapping[str, Any]) -> dict[str, str]:
    for name, value in table.items():
        _check_name(where, kind, name)
        if not _TEXT.fits(value):
            raise SubmodelError(f"{where}, [{kind}]: {name} = {value!r}: give {_TEXT.words}")
    return dict(table)


def _check_name(where: str, kind: str, name: str) -> None:
    try:
        check_name(name)
    except SubmodelError as error:
        raise SubmodelError(f"{where}, [{kind}]: {error}") from error


def _located(root: Path, given: str) -> str:
    path = root / Path(given).expanduser()
    return str(path.resolve()) if path.exists() else given


def _sparsities(where: str, given: Iterable[Any]) -> tuple[Sparsity, ...]:
    result: list[Sparsity] = []
    for value in given:
        if not isinstance(value, str) and not _NUMBER.fits(value):
            raise SubmodelError(f'{where}: sparsity {value!r}: give a fraction such as 0.5, or a pattern such as "2:4"')
        sparsity = parse_sparsity(None, value) if isinstance(value, str) else parse_sparsity(value, None)
        if sparsity in result:
            raise SubmodelError(f"{where}: sparsity {value!r} is there twice: drop one")
        result.append(sparsity)
    return tuple(result)


def _axis(where: str, kind: str, given: Sequence[Any], known: Collection[str]) -> tuple[str, ...]:
    """Names of one kind under [prune], each known and there once."""
    for name in given:
        if str(name) not in known:
            raise unknown_name(f"{kind} in {where}, [prune]:", str(name), known)
        if given.count(name) > 1:
            raise SubmodelError(f"{where}: {kind} {name!r} is there twice: drop one")
    return tuple(given)


def _task(where: str, name: str, entry: Any) -> tuple[Task, Options]:
    _check_name(where, "tasks", name)
    if not _TABLE.fits(entry) or "task" not in entry:
        raise SubmodelError(f'{where}: give a table with task = "perplexity:PATH[:COLUMN]", "humaneval", ...')
    _check(where, entry, {"task": _TEXT, _DOMAINS: _LIST, **EVALUATION})
    return parse_task(entry["task"]), {key: value for key, value in entry.items() if key not in ("task", _DOMAINS)}


def _measured(
    where: str, tasks: Mapping[str, Mapping[str, Any]], domains: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """Task -> the domains that it names, each of them known."""
    measured = {name: tuple(map(str, entry[_DOMAINS])) for name, entry in tasks.items() if _DOMAINS in entry}
    for name, names in measured.items():
        for domain in names:
            if domain not in domains:
                raise unknown_name(f"domain in {where}, [tasks.{name}]:", domain, domains)
    return measured
