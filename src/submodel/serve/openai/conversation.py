"""A chat's messages as the base's template takes them; what the template would drop is written as text.

Few small models have a template that knows tools. What a template does with them is found by trying it on a made-up
conversation: tools offered, calls made and results given are left to it where it writes them, and are otherwise
written into the messages in the form of Hermes models.
"""

import json
from functools import cached_property
from typing import Any

from submodel.runtime.text import Prompts
from submodel.serve.openai.schema import ChatMessage, ToolCall
from submodel.serve.openai.tools import CLOSE, OPEN, Tools

_NAME, _KEY, _RESULT = "tried_tool", "tried_key", "tried result"
_TOOL = {"type": "function", "function": {"name": _NAME, "parameters": {"type": "object", "properties": {_KEY: {}}}}}
_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": _NAME, "arguments": {_KEY: 1}}}
_QUESTION = {"role": "user", "content": "a question"}
_ANSWER = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_GIVEN = {"role": "tool", "content": _RESULT, "name": _NAME, "tool_call_id": _CALL["id"]}
_OFFER = """You may call functions. Their signatures, as JSON, one a line:
<tools>
{tools}
</tools>
To call one, answer with its name and arguments as JSON between these tags:
{open}
{{"name": NAME, "arguments": ARGUMENTS}}
{close}"""


class Conversations:
    """Writes conversations for one chat template."""

    def __init__(self, prompts: Prompts):
        self._prompts = prompts

    def messages(self, given: list[ChatMessage], tools: Tools | None) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """Messages and tools for the template."""
        native = tools is None or self._offers_tools
        calls = self._writes_calls if tools is None else native
        messages = []
        for message in given:
            if message.role == "tool" and (self._drops_results if tools is None else not self._writes_results):
                messages.append({"role": "user", "content": f"<tool_response>\n{message.text}\n</tool_response>"})
            else:
                messages.append(_template_message(message, calls))
        if tools is None:
            return messages, None
        if native:
            return messages, tools.definitions
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools.definitions)
        offer = _OFFER.format(tools=lines, open=OPEN, close=CLOSE)
        first = messages[0]
        if first["role"] == "system":
            return [{**first, "content": f"{first['content']}\n\n{offer}".lstrip()}, *messages[1:]], None
        if first["role"] == "user" and not self._writes_system:
            return [{**first, "content": f"{offer}\n\n{first['content']}"}, *messages[1:]], None
        return [{"role": "system", "content": offer}, *messages], None

    @cached_property
    def _offers_tools(self) -> bool:
        """Whether the template tells of tools and writes calls as answers here have them."""
        call = f'{OPEN}\n{{"name": "{_NAME}", "arguments": {{"{_KEY}": 1}}}}\n{CLOSE}'
        return _NAME in self._tried([_QUESTION], [_TOOL]) and call in self._tried([_QUESTION, _ANSWER])

    @cached_property
    def _writes_calls(self) -> bool:
        tried = self._tried([_QUESTION, _ANSWER, _GIVEN]) + self._tried([_QUESTION, _ANSWER])
        return _NAME in tried and _KEY in tried

    @cached_property
    def _writes_system(self) -> bool:
        return _RESULT in self._tried([{"role": "system", "content": _RESULT}, _QUESTION])

    @cached_property
    def _writes_results(self) -> bool:
        return _RESULT in self._tried([_QUESTION, _ANSWER, _GIVEN])

    @cached_property
    def _drops_results(self) -> bool:
        """Whether it takes results and writes nothing of them; one that refuses them may say so itself."""
        tried = self._tried([_QUESTION, _ANSWER, _GIVEN])
        return bool(tried) and _RESULT not in tried

    def _tried(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        try:
            return self._prompts.rendered(messages, tools)
        except Exception:  # a template raises whatever it likes
            return ""


def _template_message(message: ChatMessage, writes_calls: bool) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    about: dict[str, Any] = {"role": role, "content": message.text}
    calls = message.tool_calls or []
    if calls and writes_calls:
        about["tool_calls"] = [_template_call(call) for call in calls]
    elif calls:
        written = [f"{OPEN}\n{json.dumps(_call(call), ensure_ascii=False)}\n{CLOSE}" for call in calls]
        about["content"] = "\n".join([about["content"], *written]).lstrip()
    optional = {"name": message.name, "tool_call_id": message.tool_call_id}
    return about | {key: value for key, value in optional.items() if value is not None}


def _call(call: ToolCall) -> dict[str, Any]:
    """Templates write arguments as JSON, so they get what the client's text of them says, if it is an object."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    return {
        "name": call.function.name,
        "arguments": arguments if isinstance(arguments, dict) else call.function.arguments,
    }


def _template_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id or "", "type": "function", "function": _call(call)}
