"""Study -> cells, in the order in which they run: each model dense, then each way of pruning with all its tasks.

An extraction cell derives the sub-models of every domain in one walk over the base; an evaluation cell measures one
model on one task. A cell is one command line of `submodel`, run in a process of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.extract.steps import UNIFORM, reads_text
from submodel.prune.sparsity import NM, Sparsity
from submodel.study.cost import Work, evaluation_work, extraction_work, parameters
from submodel.study.grid import Options, Study


@dataclass(frozen=True)
class Cell:
    """One command of a study.

    Attributes:
        name: MODEL/extract/METHOD-SPARSITY[-ALLOCATION][-GRID] or MODEL/eval/SUBMODEL/TASK.
        model: the base's name in the study.
        argv: the command line after `submodel`.
        folder: where it runs.
        work: how much there is to do, for an estimate.
        store: the store that it writes or reads.
        makes: of an extraction: sub-model -> the options and the text that decide it.
        submodel: of an evaluation: what it measures; None for the dense base.
        measures: of an evaluation: the task, the options and the data that decide its rows.
        needs: of an evaluation: the name of the extraction that comes first.
    """

    name: str
    model: str
    argv: tuple[str, ...]
    folder: Path
    work: Work
    store: Path
    makes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    submodel: str | None = None
    measures: tuple[str, ...] = ()
    needs: str | None = None


def plan(
    study: Study,
    out: Path,
    bases: Mapping[str, Base | None],
    *,
    trust_remote_code: bool = False,
    unsafe_code: bool = False,
) -> list[Cell]:
    """All cells of a study.

    Args:
        study: the grid.
        out: the directory of its stores, rows and records.
        bases: model -> its base, if it is on this machine: for estimates.
        trust_remote_code, unsafe_code: as asked for on the command line.
    """
    trusted = ("--trust-remote-code",) if trust_remote_code else ()
    allowed = (*trusted, *(("--unsafe-code",) if unsafe_code else ()))
    cells: list[Cell] = []
    for model in study.models:
        size = parameters(bases[model])
        cells += [_evaluation(study, out, model, None, None, task, size, allowed) for task in study.tasks]
        for way in product(study.methods, study.sparsities, study.allocations, study.grids):
            if not _is_possible(*way[:3]):
                continue
            made = _extraction(study, out, model, *way, size, trusted)
            cells.append(made)
            cells += [
                _evaluation(study, out, model, submodel, made.name, task, size, allowed)
                for submodel in made.makes
                for task in study.tasks
                if submodel not in _left_out(study, task, made)
            ]
    return cells


def _left_out(study: Study, task: str, made: Cell) -> set[str]:
    """The sub-models of domains that a task does not measure."""
    name = made.name.rpartition("/")[2]
    return {f"{d}-{name}" for d in study.domains if d not in study.measured.get(task, study.domains)}


def _is_possible(method: str, sparsity: Sparsity, allocation: str) -> bool:
    """N:M removes as much of everything, and a method that reads no text has none to spread the sparsity by."""
    return allocation == UNIFORM or (reads_text(method) and not isinstance(sparsity, NM))


def select(cells: Sequence[Cell], *only: str) -> list[Cell]:
    """The cells whose name has one of `only` in it, and the extractions that they need; all without any.

    A glob has to fit the name, or its end after a slash.

    Raises SubmodelError for one that fits none.
    """
    if not only:
        return list(cells)
    chosen: set[str] = set()
    for text in only:
        globs = (text, f"*/{text}") if any(c in text for c in "*?[") else (f"*{text}*",)
        fitting = {cell.name for cell in cells if any(fnmatchcase(cell.name, glob) for glob in globs)}
        if not fitting:
            raise SubmodelError(
                f"--only {text!r}: fits none of the {len(cells)} cells: give a part of a name, such as "
                f"{cells[-1].name}, or a glob; --dry-run lists them"
            )
        chosen |= fitting
    needed = {cell.needs for cell in cells if cell.name in chosen}
    return [cell for cell in cells if cell.name in chosen | needed]


def short(sparsity: Sparsity) -> str:
    """A sparsity as a part of a name: 50 for half of every row, 2of4 for 2:4."""
    return f"{sparsity.n}of{sparsity.m}" if isinstance(sparsity, NM) else f"{100 * sparsity.fraction:g}"


def words(options: Options) -> tuple[str, ...]:
    """Options as words of a command line."""
    result: list[str] = []
    for key, value in options.items():
        if value is not False:
            result.append("--" + key.replace("_", "-"))
        if not isinstance(value, bool):
            result.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    return tuple(result)


def _extraction(
    study: Study,
    out: Path,
    model: str,
    method: str,
    sparsity: Sparsity,
    allocation: str,
    grid: str | None,
    size: int | None,
    more: tuple[str, ...],
) -> Cell:
    removed = ("--pattern", str(sparsity)) if isinstance(sparsity, NM) else ("--sparsity", f"{sparsity.fraction:g}")
    way = ("--method", method, *removed)
    name = f"{method}-{short(sparsity)}"
    if allocation != UNIFORM:
        way += ("--allocation", allocation)
        name += f"-{allocation}"
    if grid:
        way += ("--grid", grid)
        name += f"-{grid}"
    options = words(study.calibration)
    if not reads_text(method, UNIFORM, grid):
        made = {name: (*way, *options)}
        texts: tuple[str, ...] = ("--name", name)
    else:
        texts = tuple(word for t, spec in study.texts.items() for word in ("--calibration", f"{t}={spec}"))
        texts += tuple(word for d, spec in study.domains.items() for word in ("--domain", f"{d}={spec}"))
        texts += tuple(word for d in study.domains for word in ("--name", f"{d}-{name}"))
        texts += ("--data-dir", ".") if study.named_sets else ()
        made = {
            f"{d}-{name}": (*way, *options, "--domain", _text(study, d), *_read(study.texts_read, d))
            for d in study.domains
        }
    store = out / f"{model}.store"
    return Cell(
        name=f"{model}/extract/{name}",
        model=model,
        argv=(
            "extract",
            study.models[model],
            *texts,
            *way,
            *options,
            *more,
            "--no-check",
            "--out",
            str(store),
            "--json",
        ),
        folder=study.data,
        work=extraction_work(method, grid, study.calibration, len(made), size),
        store=store,
        makes=made,
    )


def _text(study: Study, name: str) -> str:
    """What decides a domain's text: its entry and, of a mixture, those of its parts."""
    known = study.texts | study.domains
    parts = [part.partition(":")[0] for part in study.domains[name].split("+")]
    return "; ".join(
        [study.domains[name], *(f"{part}={known[part]}" for part in parts if part in known and part != name)]
    )


def _read(digests: Mapping[str, str], name: str) -> tuple[str, ...]:
    return ("text", digests[name][:16]) if name in digests else ()


def _evaluation(
    study: Study,
    out: Path,
    model: str,
    submodel: str | None,
    needs: str | None,
    task_name: str,
    size: int | None,
    more: tuple[str, ...],
) -> Cell:
    task, options = study.tasks[task_name]
    store, base = out / f"{model}.store", study.models[model]
    measures = ("--task", str(task), *words(options))
    given = (f"{store}@{submodel}", "--base", base) if submodel else (base,)
    data = ("--data-dir", ".") if study.named_sets else ()
    return Cell(
        name=f"{model}/eval/{submodel or 'dense'}/{task_name}",
        model=model,
        argv=("eval", *given, *measures, *data, *more, "--out", str(out / "rows.jsonl"), "--json"),
        folder=study.data,
        work=evaluation_work(task, options, size),
        store=store,
        submodel=submodel,
        measures=(*measures, *_read(study.data_read, task_name)),
        needs=needs,
    )
