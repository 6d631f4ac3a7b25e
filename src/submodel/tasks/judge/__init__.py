"""Judge programs that a model wrote: run each in a sandbox, say whether it passes its tests, be hard to fool.

    judge = Judge(open_sandbox(), Limits(seconds=10))
    judge.judge(Program("python", source="def f(x): return x + 1", checks="assert f(1) == 2")).passed

A verdict is "passed" only by a word that the program could not say itself: the tests' own process for Python, a
one-time number for the other languages.
"""

from pathlib import Path

from submodel.errors import SubmodelError, unknown_name
from submodel.tasks.judge import cpp, java, javascript, python
from submodel.tasks.judge.cache import CompileCache
from submodel.tasks.judge.program import Program, Verdict
from submodel.tasks.sandbox import Limits, Sandbox

__all__ = ["LANGUAGES", "Judge", "Program", "Verdict", "missing_toolchain"]

LANGUAGES = {"python": python, "java": java, "cpp": cpp, "javascript": javascript}


def missing_toolchain(language: str) -> str | None:
    """What lacks here to judge programs of a language, in one line; None where nothing does. SubmodelError."""
    if language not in LANGUAGES:
        raise unknown_name("language", language, LANGUAGES)
    return LANGUAGES[language].missing()


class Judge:
    """Judges one program a call; calls may come from many threads at once.

    `cache` is where compiled programs are kept; by default a private directory that lives as long as the judge.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits = Limits(), cache: Path | None = None):  # noqa: B008
        self.sandbox = sandbox
        self.limits = limits
        self.cache = CompileCache(cache)

    def judge(self, program: Program) -> Verdict:
        """Run a program with its tests. SubmodelError for an unknown language, a missing tool, or broken tests."""
        missing = missing_toolchain(program.language)
        if missing is not None:
            raise SubmodelError(f"{missing}: install it, or leave the tasks in that language out")
        if program.language == "python":
            return python.judge(self.sandbox, program, self.limits)
        if program.language == "javascript":
            return javascript.judge(self.sandbox, program, self.limits)
        compiled = cpp if program.language == "cpp" else java
        return compiled.judge(self.sandbox, program, self.limits, self.cache)
