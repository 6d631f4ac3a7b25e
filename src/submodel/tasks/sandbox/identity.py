"""The user a sandboxed program runs as.

The kernel counts processes by user, and does not limit the real root at all. So root gives every program a user of
its own, never used elsewhere; anyone else makes a user namespace, in which the count is the program's alone.
"""

import os
import random
from pathlib import Path

_WIDE = range(1_000_000_000, 2_000_000_000)
_NARROW = range(20_000, 60_000)  # where only the usual 65,536 users are mapped


def private_user() -> int | None:
    """A user id for one program, or None where we may not take one and a user namespace is needed."""
    if os.geteuid() != 0:
        return None
    for users in (_WIDE, _NARROW):
        if _mapped(users):
            return random.SystemRandom().choice(users)
    return None


def _mapped(users: range) -> bool:
    rows = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(start <= users.start and users.stop <= start + count for start, _, count in rows)
