"""A tokenizer that may know more tokens than its model: text with one of those is refused in a line."""

from functools import cache
from typing import Any

from submodel.errors import SubmodelError


def within(tokenizer: Any, rows: int, reference: str) -> Any:
    """The tokenizer, which raises SubmodelError for text with tokens that an embedding of so many rows does not hold.

    Tokens that were added without resizing the embedding are common, and harmless as long as no text has them.
    """
    if len(tokenizer) > rows and hasattr(tokenizer, "_encode_plus"):
        tokenizer.__class__ = _checked(type(tokenizer))
        tokenizer.embedding_rows, tokenizer.model_reference = rows, reference
    return tokenizer


@cache
def _checked(kind: type[Any]) -> type[Any]:
    class Checked(kind):
        def _encode_plus(self, *args: Any, **options: Any) -> Any:
            encoding = super()._encode_plus(*args, **options)
            rows = encoding["input_ids"]
            rows = rows.tolist() if hasattr(rows, "tolist") else rows
            beyond = {i for row in rows for i in (row if isinstance(row, list) else [row]) if i >= self.embedding_rows}
            if beyond:
                names = ", ".join(repr(self.convert_ids_to_tokens(token)) for token in sorted(beyond)[:3])
                raise SubmodelError(
                    f"{self.model_reference}: the text has {names}, which the tokenizer knows and the model does not: "
                    f"its embedding has {self.embedding_rows:,} rows: resize it, or leave such tokens out of the text"
                )
            return encoding

    Checked.__name__, Checked.__qualname__ = kind.__name__, kind.__qualname__  # what is saved names the class
    return Checked
