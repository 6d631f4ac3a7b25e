"""Finished pieces of a cell, one JSON line each, so that an evaluation goes on at the problem where it was killed.

The journals of `rows.jsonl` lie in `rows.parts/`. They stay after the row is written: the row says how many problems
were solved, the journal says which, and with what text.
"""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

from submodel.errors import SubmodelError


class Journal:
    """Entries by key; a line that a kill cut short is ignored and written again.

    Raises SubmodelError when the file holds something else.
    """

    def __init__(self, out: Path, identity: str):
        """Open the journal of a cell of the rows file `out`; `identity` is everything that decides its entries."""
        self.file = out.with_suffix(".parts") / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.jsonl"
        self._lock = threading.Lock()
        self.entries: dict[str, Any] = {}
        text = self.file.read_text() if self.file.exists() else ""
        lines = text.split("\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                entry = json.loads(line)
                self.entries[entry["key"]] = entry["value"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SubmodelError(f"{self.file}, line {number}: not a journal of eval: remove the file") from error
        if lines[-1]:
            self.file.write_text("\n".join(lines[:-1]) + ("\n" if lines[:-1] else ""))

    def add(self, key: str, value: Any) -> None:
        """Keep one finished piece; `value` is JSON."""
        with self._lock:
            self.entries[key] = value
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a") as f:
                f.write(json.dumps({"key": key, "value": value}) + "\n")
