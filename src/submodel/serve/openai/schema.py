"""OpenAI's request bodies. Unknown fields are ignored here, and go to upstreams as they came."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from submodel.serve.refusal import Refusal

_Value = TypeVar("_Value")
_Most64 = (1 << 63) - 1
_Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Stop = Annotated[str, StringConstraints(max_length=256)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
_MOST_STOPS = 16
_MOST_TOOLS = 128
MOST_HINT = 1024  # characters of a file's or a language's name: names are cached
_Hint = Annotated[str, StringConstraints(max_length=MOST_HINT)]

# fields that would change the answer and are not offered, with the values that change nothing; those of OpenAI first,
# then what other engines have added
_NOT_OFFERED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "web_search_options": (None,),
    "add_generation_prompt": (None, True),
    "bad_words": (None, []),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "dry_multiplier": (None, 0),
    "grammar": (None, ""),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "ignore_eos": (None, False),
    "json_schema": (None,),
    "length_penalty": (None, 1),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "mirostat": (None, 0),
    "prompt_logprobs": (None,),
    "stop_token_ids": (None, []),
    "structured_outputs": (None,),
    "typical_p": (None, 1),
    "use_beam_search": (None, False),
    "xtc_probability": (None, 0),
}
# and of the one kind of completion, what only the other offers
_CHAT_ONLY: dict[str, tuple[Any, ...]] = {
    "parallel_tool_calls": (None, True, False),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
}
_PLAIN_ONLY: dict[str, tuple[Any, ...]] = {"best_of": (None, 1), "echo": (None, False), "suffix": (None,)}


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")


class StreamOptions(_Body):
    include_usage: bool = False


class Part(_Body):
    """A piece of a message; only text is taken."""

    type: str
    text: str | None = None


class CalledFunction(_Body):
    name: str
    arguments: str = ""


class ToolCall(_Body):
    """A call that the assistant has made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """Raises Refusal for anything but text."""
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type != "text" or part.text is None:
                raise Refusal(400, f"a message part of type {part.type[:40]!r}: only text is taken", param="messages")
        return "".join(part.text or "" for part in self.content)


class JsonSchema(_Body):
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | bool | None = Field(default=None, alias="schema")


class ResponseFormat(_Body):
    """What the answer's text has to be; a schema is kept to whether or not it is called strict."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampling(_Body):
    """What chat and completion requests share."""

    model: _Name = "auto"
    max_tokens: Annotated[int, Field(ge=0, le=_Most64)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_Most64)] | None = None
    frequency_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[_Number, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[_Number, Field(gt=0, le=10)] | None = None
    logit_bias: dict[_TokenId, Annotated[_Number, Field(ge=-100, le=100)]] | None = None
    response_format: ResponseFormat | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=_MOST_STOPS)] | None = None
    seed: Annotated[int, Field(ge=-_Most64, le=_Most64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """An empty one stops nothing."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in stops if stop)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_not_offered(self) -> None:
        """Raises Refusal for what would change the answer and is not offered here."""
        not_offered = _NOT_OFFERED | (_PLAIN_ONLY if isinstance(self, ChatRequest) else _CHAT_ONLY)
        for name, value in (self.model_extra or {}).items():
            if name in not_offered and value not in not_offered[name]:
                raise Refusal(400, f"{name} is not offered: leave it out", "unsupported_parameter", name)


class FunctionTool(_Body):
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(_Body):
    type: Literal["function"]
    function: FunctionTool


class NamedFunction(_Body):
    name: str


class NamedTool(_Body):
    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Sampling):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_Most64)] | None = None
    tools: Annotated[list[Tool], Field(max_length=_MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
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
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
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
