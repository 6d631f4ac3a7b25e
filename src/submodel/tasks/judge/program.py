"""A program to judge and the verdict on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """`source` was written by a model; `checks` and `context` were not.

    Python is judged apart from its tests: `checks` is test code that calls what `source` defines, `context` is run
    before it (the prompt, whose helpers and imports tests may use), `entry` names the function under test ("": every
    name that the checks use and the source defines). In the other languages `source` is the whole program, tests
    included.
    """

    language: str  # a key of LANGUAGES: "python", "java", "cpp", "javascript"
    source: str
    checks: str = ""
    context: str = ""
    entry: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came of a program, with one short line of detail.

    `status` is "passed", "wrong" (an assertion failed), "error" (an exception or a non-zero exit), "compile" (no
    program at all), "missing" (the function under test is not defined), "early exit" (ended before its tests did,
    without an error), "timeout" (of the clock or of the processor), "memory", "output", or "signal".
    """

    passed: bool
    status: str
    detail: str
    seconds: float


def verdict(status: str, detail: str, seconds: float) -> Verdict:
    """A verdict whose detail is one line of printable text, at most 200 characters."""
    line = "".join(character if character.isprintable() else " " for character in detail)
    return Verdict(status == "passed", status, " ".join(line.split())[:200], seconds)
