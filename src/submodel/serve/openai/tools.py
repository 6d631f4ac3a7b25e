"""Tools that a chat may call: which, when, and the grammar that an answer then keeps to.

A call is written as Hermes models and Qwen write it, on three lines: `<tool_call>`, `{"name": ..., "arguments": ...}`,
`</tool_call>`. The grammar holds every call to that and its arguments to the function's schema; text before the first
call stays free.
"""

import json
from dataclasses import dataclass
from typing import Any

from submodel.runtime.grammar import json_rule
from submodel.serve.openai.schema import ChatRequest, NamedTool, ResponseFormat, Tool
from submodel.serve.refusal import Refusal

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MOST_CALLS = 16  # of one answer


@dataclass(frozen=True)
class Tools:
    """The tools of one request.

    Attributes:
        shown: all of them, as the prompt tells the model.
        callable: those that the answer may call.
        required: whether it has to.
        most: calls in one answer.
    """

    shown: tuple[Tool, ...]
    callable: tuple[Tool, ...]
    required: bool
    most: int

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """As chat templates take them."""
        return [tool.model_dump(exclude_none=True) for tool in self.shown]


def tools_of(body: ChatRequest) -> Tools | None:
    """None where nothing can be called. Raises Refusal for a choice that cannot be made."""
    tools, choice = tuple(body.tools or ()), body.tool_choice
    if choice == "none" or (not tools and choice in (None, "auto")):
        return None
    if not tools:
        raise Refusal(400, "tool_choice without tools: give tools", param="tool_choice")
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise Refusal(400, f"two tools of one name: {', '.join(names)[:200]}", param="tools")
    for tool in tools:
        kind = (tool.function.parameters or {}).get("type", "object")
        if kind != "object":
            raise Refusal(400, f"tool {tool.function.name}: its parameters are of type object", param="tools")
    most = _MOST_CALLS if body.parallel_tool_calls else 1  # small models that may call again do so without need
    if not isinstance(choice, NamedTool):
        return Tools(tools, tools, choice == "required", most)
    name = choice.function.name
    if name not in names:
        raise Refusal(400, f"tool {name[:80]!r}: there are {', '.join(names)[:200]}", param="tool_choice")
    return Tools(tools, (tools[names.index(name)],), True, 1)


def format_rule(given: ResponseFormat | None) -> str | None:
    """`response_format` as a part of a grammar; None where any text will do. Raises Refusal for a schema left out."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return json_rule({"type": "object"})
    schema = given.json_schema.schema_ if given.json_schema else None
    if schema is None or schema is False:
        raise Refusal(400, "response_format json_schema: give json_schema.schema", param="response_format")
    return json_rule({} if schema is True else schema)


@dataclass(frozen=True)
class Tags:
    """How a tokenizer writes the tags around a call, as parts of a grammar: as letters, or each as a token."""

    opening: str = json.dumps(OPEN)
    closing: str = json.dumps(CLOSE)

    @property
    def is_token(self) -> bool:
        return self.opening != json.dumps(OPEN)


def tags_of(tokenizer: Any) -> Tags:
    """Raises Refusal where the tags are special tokens, which are no text."""
    added = {str(token): (number, token.special) for number, token in tokenizer.added_tokens_decoder.items()}
    if any(added.get(tag, (0, False))[1] for tag in (OPEN, CLOSE)):
        raise Refusal(400, f"{OPEN} is a special token of this base: tools are not offered", param="tools")
    return Tags(*(f"<[{added[tag][0]}]>" if tag in added else json.dumps(tag) for tag in (OPEN, CLOSE)))


def answer_grammar(tools: Tools | None, text: str | None, tags: Tags = Tags()) -> str | None:
    """What an answer keeps to, in llguidance's language; None where it is free.

    Args:
        tools: that may be called.
        text: the rule of an answer without calls; any text if None.
        tags: as the tokenizer writes them.
    """
    if tools is None:
        return None if text is None else f"start: {text}"
    again = f'("\\n" {tags.opening} call){{0,{tools.most - 1}}}' if tools.most > 1 else ""
    lines = [
        f'call: "\\n" ({" | ".join(f"call_{i}" for i in range(len(tools.callable)))}) "\\n" {tags.closing}',
        *(f"call_{i}: {_call_rule(tool)}" for i, tool in enumerate(tools.callable)),
    ]
    if tools.required:
        lines.insert(0, f"start: {tags.opening} call {again}")
    elif text is not None:
        lines.insert(0, f"start: text | {tags.opening} call {again}")
        lines.append(f"text: {text}")
    else:
        lines.insert(0, f"start: TEXT | opening call {again}")
        lines.append("TEXT: /(.|\\n)*/")  # of letters, the first tag ends it
        lines.append(f"opening: TEXT {tags.opening}" if tags.is_token else f"opening[lazy]: TEXT {tags.opening}")
    return "\n".join(lines)


def _call_rule(tool: Tool) -> str:
    beginning = f'{{"name": "{tool.function.name}", "arguments": '
    schema = {"type": "object", **(tool.function.parameters or {})}
    return f'{json.dumps(beginning)} {json_rule(schema)} "}}"'
