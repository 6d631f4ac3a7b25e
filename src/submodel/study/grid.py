"""A study as a value: the axes of its grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from submodel.prune.sparsity import Sparsity
from submodel.tasks.cell import Task

Options = dict[str, Any]
"""Options of a verb, by their names with underscores."""


@dataclass(frozen=True)
class Study:
    """A study's axes.

    Attributes:
        file: where it was read from.
        title: what its table shows.
        models: name -> absolute path or hub id.
        data: the directory where relative paths of domains and tasks start; cells run in it.
        named_sets: whether named sets such as humaneval lie there too; else they come from the hub.
        texts: name -> text that mixtures may name, as `extract --calibration NAME=...` takes it.
        domains: name -> what to calibrate on, as `extract --domain NAME=...` takes it.
        calibration: options of every extraction, equal for all domains.
        methods, sparsities, allocations: how to prune.
        grids: what the kept weights are rounded to; None as they are.
        tasks: name -> what to measure, with its options.
        measured: task -> the domains whose sub-models it measures, where that is not all of them.
        texts_read: domain -> SHA-256 of the text that lies on this machine; none for sets on the hub.
        data_read: task -> the same of what it is measured on.
    """

    file: Path
    title: str
    models: dict[str, str]
    data: Path
    named_sets: bool
    texts: dict[str, str]
    domains: dict[str, str]
    calibration: Options
    methods: tuple[str, ...]
    sparsities: tuple[Sparsity, ...]
    allocations: tuple[str, ...]
    grids: tuple[str | None, ...]
    tasks: dict[str, tuple[Task, Options]]
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts_read: Mapping[str, str] = field(default_factory=dict)
    data_read: Mapping[str, str] = field(default_factory=dict)
