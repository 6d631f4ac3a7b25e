"""A study: one TOML file -> a grid of extractions and evaluations -> rows and one table a model."""

from submodel.study.file import open_bases, read_study
from submodel.study.grid import Study
from submodel.study.plan import Cell, plan, select
from submodel.study.records import Records
from submodel.study.run import Result, run, standing, study_table, summary
from submodel.study.submit import Outcome, submit

__all__ = [
    "Cell",
    "Outcome",
    "Records",
    "Result",
    "Study",
    "open_bases",
    "plan",
    "read_study",
    "run",
    "select",
    "standing",
    "study_table",
    "submit",
    "summary",
]
