"""The calls in an answer's text, taken out while it comes: text before them is content, theirs are name and arguments.

The text keeps to the grammar of `tools`: a call begins and ends with its tags on lines of their own, and as no string
of JSON holds a line's end, nothing in the arguments looks like the end of a call.
"""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from submodel.serve.openai.tools import CLOSE, OPEN

_HEAD = re.compile(r'\s*\{"name": "([^"]*)", "arguments": ')
_END = "}\n" + CLOSE


@dataclass
class AnswerParts:
    """What has come since: content, and by number the calls as OpenAI's chunks have them."""

    content: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)


class CallReader:
    """Reads one answer, piece by piece.

    Attributes:
        count: calls that have begun.
    """

    def __init__(self) -> None:
        self.count = 0
        self._text = ""  # not read yet
        self._state = self._content

    def put(self, text: str, *, last: bool) -> AnswerParts:
        """What is certain with this text; all there is, if it is the last."""
        self._text += text
        parts = AnswerParts()
        while self._state(parts, last):
            pass
        return parts

    # each state reads what it can, and says whether another has begun

    def _content(self, parts: AnswerParts, last: bool) -> bool:
        before, opens, rest = self._text.partition(OPEN)
        if opens:
            parts.content += before.rstrip() if not self.count else ""
            self._text, self._state = rest, self._head
            return True
        if not last:  # white space may turn out to be between content and a call
            kept = _overlap(before, OPEN)
            before = before[: len(before) - kept].rstrip()
        parts.content += before if not self.count else ""
        self._text = self._text[len(before) :]
        return False

    def _head(self, parts: AnswerParts, last: bool) -> bool:
        match = _HEAD.match(self._text)
        if match is None:
            return False
        call = {"index": self.count, "id": f"call_{secrets.token_hex(12)}", "type": "function"}
        parts.calls[self.count] = {**call, "function": {"name": match[1], "arguments": ""}}
        self.count += 1
        self._text, self._state = self._text[match.end() :], self._arguments
        return True

    def _arguments(self, parts: AnswerParts, last: bool) -> bool:
        text, ends, rest = self._text.partition(_END)
        if not ends and not last:
            text = text[: len(text) - _overlap(text, _END)]
        if text:
            index = self.count - 1
            call = parts.calls.setdefault(index, {"index": index, "function": {"arguments": ""}})
            call["function"]["arguments"] += text
        self._text = rest if ends else self._text[len(text) :]
        if ends:
            self._state = self._content
        return bool(ends)


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that `mark` begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
