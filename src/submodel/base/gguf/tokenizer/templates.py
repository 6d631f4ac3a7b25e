"""The chat templates that a file holds: one by default, others by name."""

from collections.abc import Mapping
from typing import Any

_KEY = "tokenizer.chat_template"


def chat_templates(fields: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The template; with names where there are several; None if there is none."""
    named = {
        key.removeprefix(f"{_KEY}."): value
        for key, value in fields.items()
        if key.startswith(f"{_KEY}.") and isinstance(value, str) and value
    }
    default = fields.get(_KEY)
    if not isinstance(default, str) or not default:
        default = named.pop("default", None)
    if default is None or not named:
        return default or named or None
    return {"default": default, **named}
