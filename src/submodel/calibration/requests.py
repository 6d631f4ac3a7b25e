"""What people ask in words: a coder's domain has the English of its requests too, of which its files have little.

The requests are the instructions of a named set of instructions. They count for a tenth of a domain's tokens: a request
is short beside the code that answers it, and its own tokens are kept while it is answered.
"""

from pathlib import Path

from submodel.calibration.catalogue import DOMAINS
from submodel.calibration.documents import Document, Text
from submodel.calibration.sets import is_stored, read_set
from submodel.errors import SubmodelError

SHARE = 0.1
_SET = "python_alpaca"


def read_requests(data_dir: Path | None) -> Text | None:
    """The requests; None where they cannot be had."""
    source = DOMAINS[_SET].source
    if data_dir is not None and not is_stored(source, data_dir):
        return None
    try:
        stored = read_set(source, data_dir)
        texts = [f"{row['instruction']}\n{row['input'] or ''}".strip() for row in stored.rows]
    except (SubmodelError, KeyError, TypeError):
        return None
    documents = [Document(stored.origin, number, text) for number, text in enumerate(texts) if text]
    return Text("requests", documents, stored.origin, None, source.split) if documents else None
