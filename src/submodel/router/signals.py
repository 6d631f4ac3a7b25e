"""What the router knows of a request, what it answers, and the text that stands for a conversation."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_CONTEXT = 400  # characters: a last message shorter than this is read with what came before it
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*([\w+#.-]*)[^\n]*\n?(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.S | re.M)


@dataclass(frozen=True)
class Signals:
    """What a request shows.

    Attributes:
        text: the prompt; of a conversation what `conversation` makes of it; of a completion in the middle its prefix.
        file: the name of the file it is about, if an editor says so. It is never opened.
        suffix: what follows the gap to be filled; None if there is none.
        language: an explicit header: a programming language or a sub-model's name.
    """

    text: str
    file: str | None = None
    suffix: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Decision:
    """Which sub-model answers, and why.

    Attributes:
        name: of the sub-model; None is the base.
        confidence: from 0 to 1; 1 for explicit signals.
        signal: what decided: "header", "file", "fence", "fim", "detector", "activations", "mention" (not sure, but
            the text names one language) or "default".
        scores: sub-model (and "base") -> probability, where the activations were used.
    """

    name: str | None
    confidence: float
    signal: str
    scores: dict[str, float] = field(default_factory=dict)


def conversation(messages: Sequence[tuple[str, str]]) -> str:
    """The text to route a conversation by.

    The last message of the user decides. If it is short ("now make it faster"), the ends of the messages before it,
    the user's and the assistant's, stand in front of it, the nearest first, up to 400 characters in all. System
    messages say the same for every request and are left out.

    Args:
        messages: (role, content), the oldest first.
    """
    spoken = [content for role, content in messages if role in ("user", "assistant")]
    users = [at for at, (role, _) in enumerate(messages) if role == "user"]
    if not users:
        return "\n".join(content for _, content in messages)
    text = messages[users[-1]][1]
    before = len([1 for role, _ in messages[: users[-1]] if role in ("user", "assistant")])
    for earlier in reversed(spoken[:before]):
        room = _CONTEXT - len(text)
        if room <= 0:
            break
        text = f"{earlier[-room:]}\n{text}"
    return text


def fences(text: str) -> list[tuple[str, str]]:
    """(tag, code) of every fenced block, in order; the last one may be open."""
    return [(match[1], match[2]) for match in _FENCE.finditer(text)]
