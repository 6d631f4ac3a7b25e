"""Which column of a row is its text, and the text that it holds: a string, or the turns of a conversation.

The turns of a conversation become text as they are written, a blank line between them, without roles and without a
chat template's marks: text written through the template made worse sub-models, also for models that are asked through
it (docs/results/settled.md).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from submodel.errors import SubmodelError

# in the order in which they are taken; a table with turns often has their first one as `prompt` beside them
NAMES = ("text", "messages", "conversations", "conversation", "content", "prompt", "code")


def choose_column(rows: Sequence[Mapping[str, Any]], where: object) -> str:
    """The column that is read where none is named: one of NAMES, else the only one with text.

    Args:
        rows: the first ones. A null says nothing of its column.
        where: what errors call their file.

    Raises SubmodelError when there is no such column, or there are several.
    """
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    known = next((name for name in NAMES if name in values and _holds_text(values[name])), None)
    if known is not None:
        return known
    texts = [name for name, column in values.items() if all(map(_is_text, column)) and any(column)]
    if len(texts) != 1:
        raise SubmodelError(f"{where}: which column? it has {', '.join(values) or 'none'}: give PATH:COLUMN")
    return texts[0]


def _holds_text(column: Sequence[Any]) -> bool:
    """Whether a column called like text is one: a value that is none is an error of its row, not of the column."""
    given = [value for value in column if value not in (None, [])]
    return not given or any(isinstance(value, str) or is_turns(value) for value in given)


def _is_text(value: Any) -> bool:
    return value in (None, []) or isinstance(value, str) or is_turns(value)


def is_turns(value: Any) -> bool:
    """Whether a value is a conversation: dicts of role and content, or of from and value."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("content" in turn or "value" in turn) for turn in value)
    )


def text_of_value(value: Any, left_out: Counter[str]) -> str | None:
    """The text of a string or of turns; None for any other value. `left_out` counts the parts that are no text."""
    if isinstance(value, str):
        return value
    if not is_turns(value):
        return None
    texts = [_text_of_turn(turn.get("content", turn.get("value")), left_out) for turn in value]
    return "\n\n".join(text for text in texts if text.strip())


def _text_of_turn(content: Any, left_out: Counter[str]) -> str:
    """A turn's content: text, nothing (of a call of tools), or a list of parts, some of which may be pictures."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            texts.append(text)
        else:
            left_out["part of a turn without text"] += 1
    return "\n".join(texts)
