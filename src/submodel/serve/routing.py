"""Which model a request goes to, and why."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from submodel.router import Decision, Signals, conversation
from submodel.serve.openai.prompts import RequestPrompts
from submodel.serve.openai.schema import ChatMessage
from submodel.serve.refusal import Refusal
from submodel.serve.registry import AUTO, BASE

_MOST_TEXT = 16_000  # characters that a decision looks at: the last ones, which are nearest to the question


Choose = Callable[[Signals], Decision]


@dataclass(frozen=True)
class Chosen:
    """A decision about a model that is there."""

    name: str
    signal: str
    confidence: float
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {
            "X-Submodel-Name": self.name,
            "X-Submodel-Signal": self.signal,
            "X-Submodel-Confidence": f"{self.confidence:.4f}",
        }


class Chooser:
    """Decides one request at a time, beside the event loop.

    Args:
        choose: the router.
        names: of the models that are there.
        default: where the router's base is replaced by a named model.
    """

    def __init__(self, choose: Choose, names: list[str], default: str = BASE):
        self._choose, self._names, self._default = choose, frozenset(names), default
        self._thread = ThreadPoolExecutor(1, "route")

    async def model(self, name: str, signals: Signals) -> Chosen:
        """The named model, or the router's choice for "auto". Raises Refusal (404) for a name that is not there."""
        if name == AUTO:
            return await self.decide(signals)
        if name not in self._names:
            known = ", ".join([AUTO, *sorted(self._names)])
            raise Refusal(404, f"model {name[:80]!r} does not exist: there are {known}", "model_not_found", "model")
        return Chosen(name, "model", 1.0)

    async def decide(self, signals: Signals) -> Chosen:
        loop = asyncio.get_running_loop()
        decision = await loop.run_in_executor(self._thread, self._choose, signals)
        name = decision.name if decision.name in self._names else None
        return Chosen(name or self._default, decision.signal, decision.confidence, dict(decision.scores))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def of_chat(messages: list[ChatMessage], file: str | None, language: str | None) -> Signals:
    """Signals of a conversation."""
    text = conversation([(message.role, message.text) for message in messages])
    return Signals(text[-_MOST_TEXT:], file, None, language)


def of_completion(
    prompt: str, suffix: str | None, prompts: RequestPrompts, file: str | None, language: str | None
) -> Signals:
    """Signals of the text around the cursor, whichever way the client wrote it."""
    if suffix is None:
        prompt, suffix = prompts.split(prompt)
    return Signals(prompt[-_MOST_TEXT:], file, None if suffix is None else suffix[:_MOST_TEXT], language)
