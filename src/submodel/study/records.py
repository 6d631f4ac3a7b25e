"""What a study has done: a record a cell, and the rows. This is what makes it go on after a kill.

OUT/MODEL.store         sub-models
OUT/rows.jsonl          results: those of eval, and of every extraction its seconds and peak memory
OUT/cells/NAME.json     the record of a cell: its command, the options that decided it, how it ended; NAME.log
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from submodel.base.files import write_json
from submodel.base.models import Base
from submodel.errors import SubmodelError
from submodel.report import EXTRACTION
from submodel.store import Store, digest_of_submodel, locked
from submodel.study.plan import Cell
from submodel.study.submit import Outcome
from submodel.tasks.rows import Row, append_rows, machine, read_rows


class Records:
    """The records under a study's directory."""

    def __init__(self, out: Path):
        self.out = out
        self._stores: dict[Path, Store] = {}

    @property
    def rows_file(self) -> Path:
        return self.out / "rows.jsonl"

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Every row by a digest of its key; the last of several."""
        return {_digest(row.key): row for row in read_rows(self.rows_file)}

    def log(self, cell: Cell) -> Path:
        """Where a cell's messages go."""
        return self._file(cell, ".log")

    def read(self, cell: Cell) -> dict[str, Any]:
        """A cell's record; empty if it never started."""
        file = self._file(cell, ".json")
        try:
            return json.loads(file.read_text()) if file.exists() else {}
        except ValueError as error:
            raise SubmodelError(f"{file}: damaged ({error}): remove it, then the cell runs again") from error

    def is_done(self, cell: Cell) -> bool:
        """Whether a cell's result is there: its sub-models by the same options, or its rows."""
        record = self.read(cell)
        if cell.makes:
            made = record.get("makes", {})
            return all(self._has(cell, name) and made.get(name) == list(how) for name, how in cell.makes.items())
        rows = record.get("rows", [])
        return bool(rows) and record.get("key") == self._key(cell) and all(row in self.rows for row in rows)

    def is_ready(self, cell: Cell) -> bool:
        """Whether what a cell needs is there."""
        return cell.submodel is None or self._has(cell, cell.submodel)

    def refuse_others(self, cells: Iterable[Cell]) -> None:
        """Raises SubmodelError when a sub-model is there already, made by other options."""
        for cell in cells:
            made = self.read(cell).get("makes", {}) if cell.makes else {}
            for name, how in cell.makes.items():
                if self._has(cell, name) and made.get(name, list(how)) != list(how):
                    was, now = (_unlike(a, b) for a, b in ((made[name], how), (how, made[name])))
                    raise SubmodelError(
                        f"{cell.store}@{name}: there already, made with {was}, where the study now has {now}: give "
                        f"another --out, or submodel remove {cell.store}@{name}"
                    )

    def refuse_other_bases(self, bases: Mapping[str, Base | None]) -> None:
        """Raises SubmodelError when a model's store is of another base; only one with another path is read for it."""
        for model, base in bases.items():
            path = self.out / f"{model}.store"
            if base is None or not path.exists():
                continue
            known = Store(path).base
            if known["reference"] != base.reference and known["sha256"] != base.sha256:
                raise SubmodelError(
                    f"{path}: sub-models of {known['reference']}, whose weights are not those of {base.reference}: "
                    "give another --out"
                )

    def start(self, cell: Cell) -> None:
        """Write down that a cell runs now, and by what options."""
        log = self.log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        record = {"cell": cell.name, "argv": cell.argv, "started": datetime.now(UTC).isoformat()}
        if cell.makes:
            before = self.read(cell)
            record |= {"makes": {**before.get("makes", {}), **cell.makes}, "rows": before.get("rows", [])}
        write_json(self._file(cell, ".json"), record)

    def finish(self, cell: Cell, outcome: Outcome) -> str | None:
        """Write down how a cell ended; of an extraction also its rows.

        Returns why it failed, or None.
        """
        record = self.read(cell)
        record |= {"status": outcome.status, "seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}
        document = outcome.document
        if outcome.status:
            failed = outcome.last_line or f"ended with status {outcome.status}"
            failed = f"{failed} (status {outcome.status})" if outcome.status not in (0, 2) else failed
        elif cell.makes:
            rows = self._extraction_rows(cell, outcome)
            append_rows(self.rows_file, rows)
            record["rows"] += [_digest(row.key) for row in rows]
            parted = document["resumed_blocks"] or any("mask_of" in m for m in document["submodels"].values())
            record["whole"] = not document["already"] and not parted
            failed = None
        else:
            rows = [Row(**row) for row in (*document["rows"], *document["already"])]
            record |= {"key": self._key(cell), "rows": [_digest(row.key) for row in rows]}
            record["whole"] = not document["already"]
            failed = None if rows else outcome.last_line or "it measured nothing"
        self.__dict__.pop("rows", None)  # the file has grown
        write_json(self._file(cell, ".json"), record | {"failed": failed})
        return failed

    def rows_of(self, cell: Cell) -> list[Row]:
        """The rows that a cell stands for, as far as they are there."""
        record = self.read(cell)
        if not cell.makes and record.get("key") != self._key(cell):
            return []
        rows = [self.rows[row] for row in record.get("rows", []) if row in self.rows]
        return [row for row in rows if not cell.makes or row.submodel in cell.makes]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep another run of the study out. Raises SubmodelError when there is one."""
        self.out.mkdir(parents=True, exist_ok=True)
        with locked(self.out, "a study runs there: wait for it, or give another --out"):
            yield

    def _extraction_rows(self, cell: Cell, outcome: Outcome) -> list[Row]:
        """Seconds and peak memory of the process that made the sub-models; none for those that were there before.

        Where it fitted a mask that was there, what that had taken counts among the seconds.
        """
        document = outcome.document
        fresh = {name: m for name, m in document["submodels"].items() if name not in document["already"]}
        walk = {"submodels": sorted(fresh), "resumed_blocks": document["resumed_blocks"]}
        base = self._store(cell).base
        return [
            Row(
                model=base["reference"],
                submodel=name,
                masks=digest_of_submodel(manifest),
                weights=base["sha256"],
                task=EXTRACTION,
                data={"name": (manifest["calibration"] or {}).get("path")},
                metric=metric,
                value=value,
                low=value,
                high=value,
                n=(manifest["calibration"] or {}).get("tokens", 0),
                settings={key: manifest[key] for key in ("method", "sparsity", "pattern", "dtype")}
                | walk
                | ({"mask_of": mask["name"]} if mask else {}),
                versions=manifest["versions"],
                machine=machine(),
                seconds=outcome.seconds,
            )
            for name, manifest in fresh.items()
            for mask in [manifest.get("mask_of", {})]
            for metric, value in {
                "seconds": outcome.seconds + mask.get("seconds", 0),
                "peak_bytes": float(outcome.peak_bytes),
            }.items()
        ]

    def _key(self, cell: Cell) -> str:
        """What decides a cell's rows: the task, its options, the sub-model."""
        if cell.submodel is None:
            return _digest(json.dumps([cell.argv[1], *cell.measures]))
        manifest = self._manifest(cell, cell.submodel)
        return _digest(json.dumps([manifest.get("key"), manifest.get("masks"), *cell.measures]))

    def _manifest(self, cell: Cell, name: str) -> Mapping[str, Any]:
        return self._store(cell).manifest(name) if self._has(cell, name) else {}

    def _store(self, cell: Cell) -> Store:
        if cell.store not in self._stores:
            self._stores[cell.store] = Store(cell.store)
        return self._stores[cell.store]

    def _has(self, cell: Cell, name: str) -> bool:
        return (self._folder(cell, name) / "manifest.json").is_file()

    def _folder(self, cell: Cell, name: str) -> Path:
        return cell.store / "submodels" / name

    def _file(self, cell: Cell, ending: str) -> Path:
        return self.out / "cells" / f"{cell.name}{ending}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unlike(words: Iterable[str], others: Iterable[str]) -> str:
    """The options among words of a command line that others lack."""
    pairs, known = (_options(list(w)) for w in (words, others))
    return " ".join(f"{k} {v}" for k, v in pairs.items() if known.get(k) != v) or "no other option"


def _options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
