"""The text and data of a study, found before any cell runs: what is not there is said at once, and each has a digest.

A digest is part of what decides a cell's result: other text under the same name makes the cell another one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from submodel.calibration import Text, is_named_split, parse_domains, read_held_out, read_repository
from submodel.calibration.sets import read_set
from submodel.errors import SubmodelError
from submodel.study.grid import Study
from submodel.tasks.cell import Task
from submodel.tasks.evaluate import ON_TEXT, sets_of


def read_data(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """Read every text and data set that lies on this machine.

    Returns:
        What becomes `Study.texts_read` and `Study.data_read`.

    Raises:
        SubmodelError: text that is not there or lacks its column, a named set that is not there, or a task on text
            that a domain is calibrated on.
    """
    if not study.data.is_dir():
        raise SubmodelError(f"{study.file}: data = {str(study.data)!r}: no such directory: give it with --set data=DIR")
    with chdir(study.data):  # as cells do
        texts, calibrated = _domains(study)
        tasks: dict[str, str] = {}
        for name, (task, _) in study.tasks.items():
            with _named(study, f"[tasks.{name}]"):
                if digests_of_parts := list(_digests(study, task, calibrated)):
                    tasks[name] = _digest(digests_of_parts)
    return texts, tasks


def _domains(study: Study) -> tuple[dict[str, str], dict[Path, str]]:
    """Domain -> digest, file -> the domain that is calibrated on it; of sets on the hub only the name is checked."""
    specs = [f"{name}={spec}" for name, spec in study.domains.items()]
    with _named(study, "[domains]"):
        domains = parse_domains(specs, study.texts)
    texts: dict[str, Text] = {}
    calibrated: dict[Path, str] = {}
    digests: dict[str, str] = {}
    for domain in domains:
        digests_of_parts: list[str] = []
        for part, _ in domain.parts:
            if part not in {text.name for text in domain.texts} and not study.named_sets:
                continue
            with _named(study, f"[domains], {domain.name}"):
                texts[part] = texts.get(part) or domain.read(part, _data_dir(study))
            calibrated.setdefault(Path(texts[part].path).resolve(), domain.name)
            digests_of_parts.append(texts[part].sha256)
        if digests_of_parts:
            digests[domain.name] = _digest(digests_of_parts)
    return digests, calibrated


def _digests(study: Study, task: Task, calibrated: dict[Path, str]) -> Iterator[str]:
    """Of everything on this machine that a task is measured on."""
    if task.name == "repository":
        yield read_repository(task.spec, task.spec, "held-out").sha256
    if task.name in ON_TEXT and (study.named_sets or not is_named_split(task.spec)):
        text = read_held_out(task.spec, _data_dir(study))
        path = Path(text.path)
        if path.is_file() and path.resolve() in calibrated:
            raise SubmodelError(
                f"{task.spec} is what domain {calibrated[path.resolve()]} is calibrated on: evaluate on "
                "text that it has not seen"
            )
        yield text.sha256
    if study.named_sets:
        for source in sets_of(task):
            yield read_set(source, study.data).sha256


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _data_dir(study: Study) -> Path | None:
    return study.data if study.named_sets else None


@contextmanager
def _named(study: Study, where: str) -> Iterator[None]:
    """Say of an error which entry of the file it is about."""
    try:
        yield
    except SubmodelError as error:
        raise SubmodelError(
            f"{study.file}, {where}: {error}; paths start in {study.data}: another is given with --set data=DIR"
        ) from error
