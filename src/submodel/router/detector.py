"""The language of a piece of code by Magika (https://github.com/google/magika, Apache-2.0), where it is installed."""

from functools import cache
from typing import Any

from submodel.router.languages import language_named

_PROSE = {"txt", "markdown", "rst", "empty", "unknown", "html", "srt", "ini", "csv", "tsv"}


@cache
def _opened() -> Any:
    try:
        from magika import Magika
    except ImportError:
        return None
    return Magika()


def is_there() -> bool:
    """Whether the detector can be used; `pip install submodel[route]` brings it."""
    return _opened() is not None


def detect(code: str) -> tuple[str | None, float]:
    """(language, probability) of a piece of code; None for prose, for data and where there is no detector."""
    magika = _opened()
    if magika is None or not code.strip():
        return None, 0.0
    result = magika.identify_bytes(code.encode())
    label = str(result.dl.label)
    if not result.ok or result.dl.group != "code" or label in _PROSE:
        return None, 0.0
    return language_named(label), float(result.score)
