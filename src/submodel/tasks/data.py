"""What evaluations share of named sets: a sub-model is not measured on the set that it was calibrated on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submodel.calibration import parts_of, read_text, rows_seen, text_read
from submodel.calibration.sets import NamedSet
from submodel.errors import SubmodelError
from submodel.runtime import Loaded


def refuse_calibrated(loaded: Loaded, source: NamedSet, data_dir: Path | None) -> None:
    """Rule 1 of the science: a sub-model is not evaluated on the set that it was calibrated on.

    Raises SubmodelError.
    """
    names = [f"{name}{end}" for name in (source.file, source.hub_file) for end in ("", ".gz")]
    files = [data_dir / name for name in names if (data_dir / name).exists()] if data_dir else []
    for part in parts_of(text_read(loaded.manifest)):
        of = part.get("set")
        same = of and (of["hub"], of.get("config"), of["split"]) == (source.hub, source.config, source.split)
        if same or any(_is_of(part, file) for file in files):
            raise SubmodelError(
                f"{part['path']}: {loaded.reference} was calibrated on it: evaluate on text that it has not seen"
            )


def _is_of(part: Mapping[str, Any], file: Path) -> bool:
    """Whether a part of a calibration was read from a file, wherever it lay then."""
    path = Path(part["path"])
    if path.exists() and file.samefile(path):
        return True
    if "set" in part or path.name.removesuffix(".gz") != file.name.removesuffix(".gz"):
        return False
    try:
        return bool(rows_seen(part, read_text("", f"{file}:{part['column']}" if part["column"] else str(file))))
    except SubmodelError:  # it has other columns
        return False
