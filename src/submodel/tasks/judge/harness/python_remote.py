"""The checker's view of the program under test: proxies whose every use is a question over the channel.

An answer is believed only as far as the test itself looks at it: a proxy never equals plain data and has no
arithmetic and no order, so an object cannot talk its way past an assertion. What the program may ask in turn is to
call a function, or to advance an iterator, that the test gave to it.
"""

import builtins
from collections.abc import Callable, Iterator
from typing import Any

from python_channel import Channel, Gone  # pyright: ignore[reportMissingImports]
from python_codec import Decoder, Encoder, Junk  # pyright: ignore[reportMissingImports]


class Program:
    """The program under test at the other end of a socket. `failure` is set once it no longer answers properly."""

    def __init__(self, fd: int):
        self._channel = Channel(fd, self._serve)
        self._remotes: dict[int, Remote] = {}
        self._given: list[Any] = []  # our functions and iterators that it may use
        self._numbers: dict[int, int] = {}
        self.failure: BaseException | None = None

    def ask(self, do: str, *arguments: Any) -> Any:
        """Have the program do something; raises what it raised, Gone or Junk where it does not answer properly."""
        if (failure := self.failure) is not None:
            raise failure
        encoder = Encoder(self._handle)
        request = {"do": do, "with": encoder.encode(list(arguments))}
        try:
            answer = self._channel.ask(request)
            error = _exception(answer["error"]) if "error" in answer else None
            value = None if error else self._take(answer, encoder.containers)
        except (Gone, Junk) as failure:
            self.failure = failure
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as junk:
            self.failure = failure = Junk(f"{type(junk).__name__}: {junk}")
            raise failure from None
        if error is not None:
            raise error
        return value

    def _take(self, answer: dict[str, Any], given: list[Any]) -> Any:
        """The value of an answer, after what it changed in the containers that were given."""
        for at, content in answer["changed"].items():
            Decoder(self._standing, known=given).fill(given[int(at)], content)
        return Decoder(self._standing, known=given).decode(answer["value"])

    def expect(self, kind: type, do: str, *arguments: Any) -> Any:
        """`ask` for an answer that has to be of one plain kind."""
        value = self.ask(do, *arguments)
        if type(value) is not kind:
            raise TypeError(f"{do} should return {kind.__name__}, not {type(value).__name__}")
        return value

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        known: Callable[..., Any] | Iterator[Any]
        decoder = Decoder(self._standing)
        known, *rest = decoder.decode(request["with"])
        if not any(known is given for given in self._given):
            raise Junk("a request about something that is not its own")
        try:
            if request["do"] == "call" and callable(known):
                args, named = rest
                value = known(*args, **named)
            elif request["do"] == "next" and isinstance(known, Iterator):
                value = next(known)
            else:
                raise TypeError(f"the test's {type(known).__name__} allows no {request['do']!r}")
        except Exception as error:
            if error is self.failure:
                raise
            names = [kind.__name__ for kind in type(error).__mro__]
            return {"error": [names, str(error)[:2000]]}
        return {"value": Encoder(self._handle).encode(value), "changed": {}}

    def _handle(self, value: Any) -> list[Any]:
        if type(value) is Remote:
            return ["yours", object.__getattribute__(value, "_remote_number"), ""]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._given)
            self._given.append(value)
        return ["mine", self._numbers[id(value)], type(value).__name__]

    def _standing(self, tag: str, number: int, name: str) -> Any:
        if tag == "yours":
            return self._given[number]
        if number not in self._remotes:
            self._remotes[number] = Remote(self, number)
        return self._remotes[number]


class Remote:
    """An object of the program under test."""

    def __init__(self, program: Program, number: int):
        object.__setattr__(self, "_remote_program", program)
        object.__setattr__(self, "_remote_number", number)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _program(self).ask("call", self, list(args), named)

    def __getattr__(self, name: str) -> Any:
        # the dunders that copying, printing and numeric protocols look for are not the program's to answer
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__", "__dict__"):
            raise AttributeError(name)
        return _program(self).ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _program(self).ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _program(self).ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _program(self).ask("setitem", self, key, value)

    def __iter__(self) -> Any:
        return _program(self).ask("iter", self)

    def __next__(self) -> Any:
        return _program(self).ask("next", self)

    def __len__(self) -> int:
        return _program(self).expect(int, "len", self)

    def __bool__(self) -> bool:
        return _program(self).expect(bool, "bool", self)

    def __str__(self) -> str:
        return _program(self).expect(str, "str", self)

    def __repr__(self) -> str:
        return _program(self).expect(str, "repr", self)

    def __hash__(self) -> int:
        return _program(self).expect(int, "hash", self)

    def __eq__(self, other: object) -> bool:
        if type(other) is not Remote:
            return False
        return self is other or _program(self).expect(bool, "equal", self, other)

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Remote and _program(self).expect(bool, "isinstance", instance, self)


def _program(remote: Remote) -> Program:
    return object.__getattribute__(remote, "_remote_program")


def _exception(description: list[Any]) -> Exception:
    names, text = description
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(str(text))
            except TypeError:  # UnicodeDecodeError and its like want more
                continue
    return Exception(str(text))
