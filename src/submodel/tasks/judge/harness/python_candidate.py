"""The process of the program under test: runs the source, then answers calls of its functions.

usage: main(), this folder on sys.path, argv SOCKET SITE_PACKAGES..., the source on standard input

Nothing here is trusted by the other side: the program shares this process and may change all of it.
"""

import builtins
import copy
import json
import operator
import os
import sys
import types
from typing import Any

from python_channel import Channel, Gone  # pyright: ignore[reportMissingImports]
from python_codec import (  # pyright: ignore[reportMissingImports]
    Decoder,
    Encoder,
    as_index,
    library_name,
    plain,
    plain_kind,
)


class Candidate:
    """The loaded program, and those of its objects that the other side holds."""

    def __init__(self, fd: int, source: str):
        self._source = source
        self.module = types.ModuleType("candidate")
        self._channel = Channel(fd, self.serve)
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._classes: dict[int, list[Any]] = {}
        self._remote_objects: dict[int, Their] = {}
        self._operations = {
            "load": self._load,
            "names": self._names,
            "global": lambda name: self.module.__dict__[name],
            "call": lambda function, args, named: function(*args, **named),
            "getattr": getattr,
            "setattr": setattr,
            "getitem": lambda value, key: value[key],
            "setitem": operator.setitem,
            "delitem": operator.delitem,
            "operator": lambda name, *operands: getattr(operator, name)(*operands),
            "special": lambda value, name, *arguments: getattr(type(value), name)(value, *arguments),
            "contents": lambda values: [plain(value) for value in values],
            "iter": iter,
            "next": next,
            "len": len,
            "bool": bool,
            "str": str,
            "repr": repr,
            "equal": lambda left, right: bool(left == right),
            "isinstance": lambda value, kind: isinstance(value, kind),
            "hash": hash,
            "copy": copy.copy,
            "deepcopy": copy.deepcopy,
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
        except (KeyboardInterrupt, Gone):
            raise
        except SystemExit as error:
            if request["do"] == "load":
                raise
            return self._failed(error)
        except BaseException as error:
            return self._failed(error)

    def _failed(self, error: BaseException) -> dict[str, Any]:
        """An exception as an answer: itself, or no more than its classes' names where it cannot be told."""
        try:
            return {"error": Encoder(self._handle).encode(error)}
        except Exception:
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

    def _contents(self, containers: list[Any], known: dict[int, list[Any]]) -> list[Any]:
        return [Encoder(self._handle, known).content(value) for value in containers]

    def _handle(self, value: Any, encoder: Encoder) -> list[Any]:
        if isinstance(value, Their):
            return ["yours", value._number]
        if isinstance(value, type):
            return self._class(value)
        kind = type(value)
        if isinstance(value, BaseException):
            return ["object", self._number(value), self._class(kind), encoder.encode((value.args, text(value)))]
        if plain_kind(kind) is None and _is_library(kind):  # a function, a generator, a match of an expression, ...
            return ["named", self._number(value), kind.__name__, _specials(kind)]
        data = encoder.encode(plain(value)) if plain_kind(kind) else None
        return ["object", self._number(value), self._class(kind), data]

    def _class(self, kind: type) -> list[Any]:
        """A class of the program: its name, its bases that the other side can make, and what it defines."""
        if name := library_name(kind):
            return ["library", *name]
        number = self._number(kind)
        if number not in self._classes:
            bases = [self._class(base) for base in _bases(kind)]
            fields = list(getattr(kind, "__dataclass_fields__", ()))
            self._classes[number] = ["class", number, kind.__name__, bases, _specials(kind), fields]
        return self._classes[number]

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # keeps it, and so its id
        return self._numbers[id(value)]

    def _standing(self, tag: str, parts: list[Any], decoder: Decoder) -> Any:
        number = as_index(parts[0])
        if tag == "yours":
            return self._objects[number]
        if number not in self._remote_objects:
            self._remote_objects[number] = _THEIRS.get(parts[1], Their)(self, number)
        return self._remote_objects[number]


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names


def _specials(kind: type) -> list[str]:
    """The names that a class defines beyond those of every object, or of the plain kind that it derives from."""
    base = plain_kind(kind) or object
    missing = object()
    names = [name for name in type.__dir__(kind) if getattr(kind, name, missing) is not getattr(base, name, missing)]
    return sorted([*names, "unhashable"] if kind.__hash__ is None else names)


def _bases(kind: type) -> list[type]:
    """The nearest bases of a class that are the program's own, of plain data, or exceptions."""
    result: list[type] = []
    for base in kind.__bases__:
        is_data = type(base) is type and library_name(base) and (plain_kind(base) or issubclass(base, BaseException))
        if is_data or not _is_library(base):
            result.append(base)
        elif base is not object:
            result += _bases(base)
    return result


class Their:
    """An object of the tests."""

    def __init__(self, candidate: Candidate, number: int):
        object.__setattr__(self, "_candidate", candidate)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._candidate.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._candidate.ask("setattr", self, name, value)


class TheirFunction(Their):
    """A function or a class of the tests."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._candidate.ask("call", self, args, named)


class TheirIterator(Their):
    """An iterator of the tests."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._candidate.ask("next", self)


_THEIRS = {"function": TheirFunction, "iterator": TheirIterator}


def text(error: BaseException) -> str:
    """What an exception says, as text that can be sent."""
    try:
        return str(error).encode(errors="replace").decode()[:2000]
    except Exception:
        return ""


def describe(error: BaseException) -> list[Any]:
    """The names of an exception's classes, nearest first, and its text."""
    return ["names", [kind.__name__ for kind in type(error).__mro__], text(error)]


def main() -> None:
    """Serve the program on standard input until the tests are done."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # else one a core, over our limits
    sys.path += sys.argv[2:]
    Candidate(int(sys.argv[1]), sys.stdin.buffer.read().decode("utf-8", "surrogatepass")).run()
    os._exit(0)  # whatever the program left to be done at its end is of no interest
