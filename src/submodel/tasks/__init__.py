"""What a sub-model can still do, as rows of results."""

from submodel.tasks.evaluate import TASKS, evaluate, parse_task

__all__ = ["TASKS", "evaluate", "parse_task"]
