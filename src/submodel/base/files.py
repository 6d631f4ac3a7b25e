"""Files that are whole or not there: written to a temporary name, flushed to the disk, renamed."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(file: Path, document: Any) -> None:
    """Write a document to a temporary name, flush it to the disk and rename it."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    sync(partial)
    os.replace(partial, file)


def sync(file: Path) -> None:
    """Flush what was written to the disk."""
    with open(file, "rb") as f:
        os.fsync(f.fileno())
