"""The one error a user can cause, and the one message for a name that is not known."""

import difflib
from collections.abc import Iterable


class SubmodelError(ValueError):
    """Wrong use or bad input: one line that says what was given, what is allowed and what to do.

    The command line prints it and exits with status 2; any other exception is a defect.
    """


def unknown_name(kind: str, given: str, known: Iterable[str]) -> SubmodelError:
    """The error for a name that is not in a table, with the nearest known name if one is near."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return SubmodelError(f"unknown {kind} {given!r}{hint}: allowed are {', '.join(names) or 'none here'}")
