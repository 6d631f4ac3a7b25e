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
    most = 1 if body.parallel_tool_calls is False else _MOST_CALLS
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


def answer_grammar(tools: Tools | None, text: str | None) -> str | None:
    """What an answer keeps to, in llguidance's language; None where it is free.

    Args:
        tools: that may be called.
        text: the rule of an answer without calls; any text if None.
    """
    if tools is None:
        return None if text is None else f"start: {text}"
    again = f'("\\n{OPEN}" call){{0,{tools.most - 1}}}' if tools.most > 1 else ""
    lines = [
        f'call: "\\n" ({" | ".join(f"call_{i}" for i in range(len(tools.callable)))}) "\\n{CLOSE}"',
        *(f"call_{i}: {_call_rule(tool)}" for i, tool in enumerate(tools.callable)),
    ]
    if tools.required:
        lines.insert(0, f'start: "{OPEN}" call {again}')
    elif text is not None:
        lines.insert(0, f'start: text | "{OPEN}" call {again}')
        lines.append(f"text: {text}")
    else:
        lines.insert(0, f"start: TEXT | opening call {again}")
        lines += ["TEXT: /(.|\\n)*/", f'opening[lazy]: TEXT "{OPEN}"']
    return "\n".join(lines)


def _call_rule(tool: Tool) -> str:
    beginning = f'{{"name": "{tool.function.name}", "arguments": '
    schema = {"type": "object", **(tool.function.parameters or {})}
    return f'{json.dumps(beginning)} {json_rule(schema)} "}}"'
