"""Whether a model was calibrated on code of the repository that it is measured on, from another place than there."""

from pathlib import Path

from submodel.calibration import Problems, Text, parts_of, rebuild
from submodel.errors import SubmodelError
from submodel.runtime import Loaded


def seen_elsewhere(loaded: Loaded, held_out: Text, data_dir: Path | None = None) -> str | None:
    """A line where a model's calibration text, other than the repository itself, holds code of its held-out files.

    A named set may have been gathered from this very repository. What it was calibrated on is made again from its
    manifest and compared with the files, by 13 words in a row.

    Args:
        loaded: the model.
        held_out: the held-out files.
        data_dir: where named sets lie now; where they lay then if None.
    """
    calibration = (loaded.manifest or {}).get("calibration")
    parts = parts_of(calibration)
    if not calibration or all("repository" in part for part in parts):
        return None
    own = {source for part in parts if "repository" in part for source in part["rows"]}
    try:
        documents = rebuild(calibration, loaded.tokenizer, data_dir).documents
    except SubmodelError as error:
        return f"{loaded.reference}: whether it has seen code of {held_out.path} is not known ({error})"
    others = [document for document in documents if document.source not in own]
    counts = Problems({"held out": [document.text for document in held_out.documents]}).overlaps(others)
    hit = counts["sets"]["held out"]["overlapping"]
    if not hit:
        return None
    return (
        f"{loaded.reference}: was calibrated on text that shares {counts['words']} words in a row with {hit} of "
        f"{len(held_out.documents)} held-out files of {held_out.path}: it has seen code of this repository, so the "
        "comparison favours it: compare with a model calibrated on other text"
    )
