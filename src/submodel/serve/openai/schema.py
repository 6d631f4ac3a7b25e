"""OpenAI's request bodies. Unknown fields are ignored here, and go to upstreams as they came."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from submodel.serve.refusal import Refusal

_Value = TypeVar("_Value")
_Most64 = (1 << 63) - 1
_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_MOST_STOPS = 16
MOST_HINT = 1024  # characters of a file's or a language's name: names are cached
_Hint = Annotated[str, StringConstraints(max_length=MOST_HINT)]

# fields that would change the answer and are not offered, with the values that change nothing
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")


class StreamOptions(_Body):
    include_usage: bool = False


class Part(_Body):
    """A piece of a message; only text is taken."""

    type: str
    text: str | None = None


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Raises Refusal for anything but text."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise Refusal(400, f"a message part of type {part.type[:40]!r}: only text is taken", param="messages")
        return "".join(part.text or "" for part in self.content)


class Sampling(_Body):
    """What chat and completion requests share."""

    model: _Name = "auto"
    max_tokens: Annotated[int, Field(ge=1, le=_Most64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-_Most64, le=_Most64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_not_offered(self) -> None:
        """Raises Refusal for what would change the answer and is not offered here."""
        for name, value in (self.model_extra or {}).items():
            if name in _NOT_OFFERED and value not in _NOT_OFFERED[name]:
                raise Refusal(400, f"{name} is not offered: leave it out", "unsupported_parameter", name)


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_Most64)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def best(self) -> int | None:
        """Alternatives to score; None for no scores."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampling):
    """`POST /v1/completions`."""

    prompt: str | list[_TokenId] | list[str] | list[list[_TokenId]]
    suffix: str | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class RouteRequest(_Body):
    """`POST /v1/route`: a chat or completion request, or a text; nothing is generated."""

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    suffix: str | None = None
    file: _Hint | None = None
    language: _Hint | None = None


def or_default(value: _Value | None, default: _Value) -> _Value:
    """A field that may be null."""
    return default if value is None else value
