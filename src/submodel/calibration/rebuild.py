"""Make the calibration text of a sub-model again from its manifest, and see that it is the same to the token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submodel.calibration.catalogue import DOMAINS
from submodel.calibration.documents import Text, read_text
from submodel.calibration.named_text import read_named_set
from submodel.calibration.packing import Budget, pack
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Samples, parts_of
from submodel.errors import SubmodelError, unknown_name

_REMOVED = {"form": "chat", "weighting": "document"}  # what manifests from before 2026-12-01 may say


def rebuild(calibration: Mapping[str, Any], tokenizer: Any, data_dir: Path | None = None) -> Samples:
    """The samples that a manifest's `calibration` speaks of.

    Args:
        calibration: from a manifest.
        tokenizer: of the base.
        data_dir: where named sets lie now; where they lay then if None.

    Raises:
        SubmodelError: text that is not there any more, whose rows or tokens are others, or that was read in a way that
            has been removed since.
    """
    for option, removed in _REMOVED.items():
        if calibration.get(option) == removed:
            raise SubmodelError(
                f"{calibration['path']}: read with --{option} {removed}, which has been removed: this text can no "
                "longer be rebuilt: extract the sub-model anew"
            )
    document = calibration.get("shape") == "document"
    budget = Budget(
        calibration["seq_len"],
        calibration["samples"],
        calibration["tokens"] if document else None,
        calibration["seed"],
        **{key: calibration[key] for key in ("shape", "form") if key in calibration},
    )
    recorded = parts_of(calibration)
    parts = [(_read(part, data_dir), float(part.get("weight", 1))) for part in recorded]
    samples = pack("rebuilt", parts, tokenizer, budget, calibration["path"])
    provenance = samples.provenance
    assert provenance is not None
    for before, now in zip(recorded, parts_of(provenance.as_dict()), strict=True):
        if list(before["rows"].values()) != list(now["rows"].values()):
            raise SubmodelError(f"{now['path']}: other rows take part than recorded: its text or its order has changed")
        if list(before["sha256_rows"].values()) != list(now["sha256_rows"].values()):
            raise SubmodelError(f"{now['path']}: the rows that took part have other text than then")
    if provenance.sha256_tokens != calibration["sha256_tokens"]:
        raise SubmodelError(
            f"{calibration['path']}: the same rows give other tokens than recorded: the tokenizer has changed"
        )
    return samples


def _read(part: Mapping[str, Any], data_dir: Path | None) -> Text:
    name = part.get("name", "text")
    where = ":".join(filter(None, (part["path"], part["column"])))
    if "repository" in part:
        return read_repository(name, where, part["split"])
    if "set" not in part:
        return read_text(name, where, "held-out" if part["split"] == "held-out" else "calibration")
    key = part["set"]["name"]
    if key not in DOMAINS:
        raise unknown_name("named set", key, DOMAINS)
    if "revision" in part["set"]:
        return read_named_set(key, None, part["set"]["revision"])
    source = DOMAINS[key].source
    recorded_dir = part["path"].removesuffix(".gz").removesuffix(source.hub_file).removesuffix(source.file)
    return read_named_set(key, data_dir or Path(recorded_dir or "."))
