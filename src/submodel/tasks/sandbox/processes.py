"""What the processes of a sandbox hold together, seen from outside: memory, and files in the private directory.

The kernel's limits are for one process; many processes within them could still take the machine.
"""

import os
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """Every process below `pid`. Those whose parent died are below the sandbox's own first process."""
    pids: list[int] = []
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop())
        pids += children
        waiting += children
    return pids


def memory_bytes(pids: list[int], limit: int) -> int:
    """Memory that the processes hold, files in the page cache apart.

    Pages shared by a fork are counted once, but only where the plain sum is over `limit`: that takes longer.
    """
    total = sum(_kilobytes(pid, "status", ("RssAnon", "RssShmem")) for pid in pids) << 10
    if total <= limit:
        return total
    shared = sum(_kilobytes(pid, "smaps_rollup", ("Pss_Anon", "Pss_Shmem")) for pid in pids) << 10
    return shared or total  # 0: we may not read it


def file_count(pids: list[int], size_bytes: int) -> int:
    """Files in the private directory of `size_bytes`; each takes kernel memory that no limit counts. 0 if not seen."""
    for pid in pids:
        try:
            private = os.statvfs(f"/proc/{pid}/root/tmp")
        except OSError:
            continue
        # another size: a process that does not see its own /tmp yet
        if 0 <= private.f_blocks * private.f_frsize - size_bytes < private.f_frsize:
            return private.f_files - private.f_ffree
    return 0


def _children(pid: int) -> list[int]:
    pids: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            pids += [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    except OSError:  # it ended meanwhile
        pass
    return pids


def _kilobytes(pid: int, file: str, fields: tuple[str, ...]) -> int:
    total = 0
    try:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in fields:
                total += int(value.split()[0])
    except OSError:  # it ended meanwhile
        pass
    return total
