"""The process of the program under test: runs the source, then answers calls of its functions.

usage: main(), this folder on sys.path, argv SOCKET SITE_PACKAGES..., the source on standard input

Nothing here is trusted by the other side: the program shares this process and may change all of it.
"""

import builtins
import json
import os
import sys
import types
from typing import Any

from python_channel import Channel, Gone  # pyright: ignore[reportMissingImports]
from python_codec import Decoder, Encoder  # pyright: ignore[reportMissingImports]


class Candidate:
    """The loaded program, and those of its objects that the other side holds."""

    def __init__(self, fd: int, source: str):
        self._source = source
        self.module = types.ModuleType("candidate")
        self._channel = Channel(fd, self.serve)
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._remote_objects: dict[int, Their] = {}
        self._operations = {
            "load": self._load,
            "names": self._names,
            "global": lambda name: self.module.__dict__[name],
            "call": lambda function, args, named: function(*args, **named),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": lambda value, key: value[key],
            "setitem": self._set_item,
            "iter": iter,
            "next": next,
            "len": len,
            "bool": bool,
            "str": str,
            "repr": repr,
            "equal": lambda left, right: bool(left == right),
            "isinstance": lambda value, kind: isinstance(value, kind),
            "hash": hash,
        }

    def run(self) -> None:
        """Serve until the other side is done."""
        self._channel.serve_forever()

    def serve(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one thing; containers among the arguments that it changed go back with the answer."""
        try:
            decoder = Decoder(self._standing)
            arguments = decoder.decode(request["with"])
            known = {id(value): ["known", at] for at, value in enumerate(decoder.containers)}
            before = self._contents(decoder.containers, known)
            value = self._operations[request["do"]](*arguments)
            after = self._contents(decoder.containers, known)
            changed = {at: new for at, new in enumerate(after) if json.dumps(new) != json.dumps(before[at])}
            # one encoder for all, so that what they share stays shared
            return {"value": Encoder(self._handle, known).encode(value), "changed": changed}
        except (SystemExit, KeyboardInterrupt, Gone):
            raise
        except BaseException as error:
            return {"error": describe(error)}

    def ask(self, do: str, *arguments: Any) -> Any:
        """Have the other side do something with an object of its own."""
        answer = self._channel.ask({"do": do, "with": Encoder(self._handle).encode(arguments)})
        if "error" in answer:
            kinds = [getattr(builtins, name, None) for name in answer["error"][0]]
            raise next((kind for kind in kinds if kind), Exception)(answer["error"][1])
        return Decoder(self._standing).decode(answer["value"])

    def _load(self, *_: Any) -> None:
        sys.modules["candidate"] = self.module
        exec(compile(self._source, "candidate.py", "exec", dont_inherit=True), self.module.__dict__)

    def _names(self) -> dict[str, str]:
        return {
            name: value.__name__ if isinstance(value, types.ModuleType) else ""
            for name, value in self.module.__dict__.items()
            if not name.startswith("__")
        }

    @staticmethod
    def _set_item(value: Any, key: Any, item: Any) -> None:
        value[key] = item

    def _contents(self, containers: list[Any], known: dict[int, list[Any]]) -> list[Any]:
        return [Encoder(self._handle, known).content(value) for value in containers]

    def _handle(self, value: Any) -> list[Any]:
        if isinstance(value, Their):
            return ["yours", value._number, ""]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # keeps it, and so its id
        return ["mine", self._numbers[id(value)], type(value).__name__]

    def _standing(self, tag: str, number: int, name: str) -> Any:
        if tag == "yours":
            return self._objects[number]
        if number not in self._remote_objects:
            self._remote_objects[number] = Their(self, number)
        return self._remote_objects[number]


class Their:
    """A function or an iterator of the other side."""

    def __init__(self, candidate: Candidate, number: int):
        self._candidate = candidate
        self._number = number

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._candidate.ask("call", self, args, named)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._candidate.ask("next", self)


def describe(error: BaseException) -> list[Any]:
    """The names of an exception's classes, nearest first, and its text."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return [[kind.__name__ for kind in type(error).__mro__], text.encode(errors="replace").decode()[:2000]]


def main() -> None:
    """Serve the program on standard input until the tests are done."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # else one a core, over our limits
    sys.path += sys.argv[2:]
    Candidate(int(sys.argv[1]), sys.stdin.buffer.read().decode("utf-8", "surrogatepass")).run()
    os._exit(0)  # whatever the program left to be done at its end is of no interest
