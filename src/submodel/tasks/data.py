"""What evaluations share of named sets: a sub-model is not measured on the set that it was calibrated on."""

from pathlib import Path

from submodel.calibration import parts_of
from submodel.errors import SubmodelError
from submodel.runtime import Loaded
from submodel.sets import NamedSet


def refuse_calibrated(loaded: Loaded, source: NamedSet, data_dir: Path | None) -> None:
    """Rule 1 of the science: a sub-model is not evaluated on the set that it was calibrated on.

    Raises SubmodelError.
    """
    if data_dir is None:
        return
    files = [data_dir / f"{name}{end}" for name in (source.file, source.own_file) for end in ("", ".gz")]
    for part in parts_of((loaded.manifest or {}).get("calibration")):
        path = Path(part["path"])
        if any(file.exists() and path.exists() and file.samefile(path) for file in files):
            raise SubmodelError(
                f"{path}: {loaded.reference} was calibrated on it: evaluate on text that it has not seen"
            )
