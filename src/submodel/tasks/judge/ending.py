"""How a sandboxed program ended -> the status of its verdict; never "passed", which takes more than an ending."""

import signal

from submodel.tasks.sandbox import Outcome

_OUT_OF_MEMORY = (b"std::bad_alloc", b"java.lang.OutOfMemoryError", b"JavaScript heap out of memory", b"MemoryError")
_ASSERTION = (b"Assertion `", b"java.lang.AssertionError", b"[ERR_ASSERTION]", b"AssertionError")


def describe_ending(outcome: Outcome) -> tuple[str, str]:
    """(status, detail) of a program that did not reach its end properly."""
    if outcome.status in ("timeout", "cpu"):
        kind = "clock" if outcome.status == "timeout" else "processor"
        return "timeout", f"over the limit on {kind} time"
    if outcome.status in ("memory", "output"):
        return outcome.status, f"over the limit on {outcome.status}"
    if any(words in outcome.stderr for words in _OUT_OF_MEMORY):
        return "memory", last_line(outcome.stderr)
    if any(words in outcome.stderr for words in _ASSERTION):
        return "wrong", _line_with(outcome.stderr, _ASSERTION)
    if outcome.status == "signal":
        return "signal", _signal_name(outcome.code)
    if outcome.status == "exited" and outcome.code == 0:
        return "early exit", "it ended before its tests did"
    if outcome.status == "exited":
        return "error", f"exit status {outcome.code}: {_telling_line(outcome.stderr)}"
    return "error", "it no longer answered"


def last_line(text: bytes) -> str:
    """The last line of some output that is not empty."""
    lines = text[-4096:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _telling_line(text: bytes) -> str:
    """The line that names an exception, where one does; else the last."""
    lines = [line for line in text[:4096].splitlines() if b"Error" in line or b"Exception" in line]
    return next((line.decode(errors="replace") for line in lines if not line.startswith(b"\tat ")), last_line(text))


def _line_with(text: bytes, words: tuple[bytes, ...]) -> str:
    """What stands from the first of `words` that occurs to the end of its line."""
    word = next(word for word in words if word in text)
    return text[text.index(word) :].splitlines()[0].decode(errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
