"""Code tasks: a model's programs run in the sandbox and are judged by the data set's tests."""

from submodel.tasks.code.tables import CODE
from submodel.tasks.code.task import code_rows

__all__ = ["CODE", "code_rows"]
