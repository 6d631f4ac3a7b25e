"""The checker's view of the program under test: every use of one of its objects is a question over the channel.

An answer is believed only as far as the test itself looks at it: an object never equals plain data and has no order
among it, so it cannot talk its way past an assertion. What the program may ask in turn is to call a function, to
advance an iterator, or to use the public attributes of an object that the test gave to it.
"""

import builtins
from collections.abc import Callable, Iterator
from typing import Any

from python_channel import Channel, Gone  # pyright: ignore[reportMissingImports]
from python_codec import PLAIN, Decoder, Encoder, Junk, as_index  # pyright: ignore[reportMissingImports]
from python_mirror import (  # pyright: ignore[reportMissingImports]
    MUTABLE,
    is_remote,
    make_class,
    named_class,
    refuse,
    stand_in,
)

_MOST_FOLLOWED = 64  # mutable objects of the program whose items are kept up to date


class Program:
    """The program under test at the other end of a socket. `failure` is set once it no longer answers properly.

    `raises_stop`: whether the tests speak of StopIteration. Where they do not, a call that raises it could only end
    one of their loops before its assertions.
    """

    def __init__(self, fd: int, raises_stop: bool = False):
        self._channel = Channel(fd, self._serve)
        self._raises_stop = raises_stop
        self._remotes: dict[int, Any] = {}
        self._named: dict[Any, type] = {}
        self._followed: list[Any] = []
        self._given: list[Any] = []  # our functions, iterators and objects that it may use
        self._numbers: dict[int, int] = {}
        self.failure: BaseException | None = None

    def ask(self, do: str, *arguments: Any) -> Any:
        """Have the program do something; raises what it raised, Gone or Junk where it does not answer properly."""
        value, error = self._ask(do, arguments)
        if self._followed:
            contents, _ = self._ask("contents", [self._followed])
            if not isinstance(contents, list) or len(contents) != len(self._followed):
                failure = self.failure = Junk("no contents")
                raise failure
            for follower, content in zip(self._followed, contents, strict=True):
                MUTABLE[refuse(content, *MUTABLE)](follower, content)
        if isinstance(error, StopIteration) and do != "next" and not self._raises_stop:
            raise RuntimeError("the program raised StopIteration") from None
        if error is not None:
            raise error
        return value

    def _ask(self, do: str, arguments: Any) -> tuple[Any, BaseException | None]:
        if (failure := self.failure) is not None:
            raise failure
        encoder = Encoder(self._handle)
        request = {"do": do, "with": encoder.encode(list(arguments))}
        try:
            answer = self._channel.ask(request)
            if "error" in answer:
                return None, self._exception(answer["error"])
            return self._take(answer, encoder.containers), None
        except (Gone, Junk) as failure:
            self.failure = failure
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as junk:
            self.failure = failure = Junk(f"{type(junk).__name__}: {junk}")
            raise failure from None

    def _take(self, answer: dict[str, Any], given: list[Any]) -> Any:
        """The value of an answer, after what it changed in the containers that were given."""
        for at, content in answer["changed"].items():
            Decoder(self._standing, known=given).fill(given[int(at)], content)
        return Decoder(self._standing, known=given).decode(answer["value"])

    def _exception(self, node: Any) -> BaseException:
        if node[0] == "names":
            return _by_name(node[1], node[2])
        error = Decoder(self._standing).decode(node)
        if not isinstance(error, BaseException):
            raise Junk("an error that is no exception")
        return error

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
            value = self._do(request["do"], known, rest)
        except Exception as error:
            if error is self.failure:
                raise
            names = [kind.__name__ for kind in type(error).__mro__]
            return {"error": [names, str(error)[:2000]]}
        return {"value": Encoder(self._handle).encode(value), "changed": {}}

    @staticmethod
    def _do(do: str, known: Any, rest: list[Any]) -> Any:
        if do == "call" and callable(known):
            args, named = rest
            return known(*args, **named)
        if do == "next" and isinstance(known, Iterator):
            return next(known)
        # of a function, or behind an underscore, there are ways to everything in this process
        if type(known).__module__ == "tests" and not str(rest[0]).startswith("_"):
            if do == "getattr":
                return getattr(known, rest[0])
            if do == "setattr":
                return setattr(known, *rest)
        raise TypeError(f"the test's {type(known).__name__} allows no {do!r}")

    def _handle(self, value: Any, encoder: Encoder) -> list[Any] | None:
        if is_remote(value):
            read = type.__getattribute__ if isinstance(value, type) else object.__getattribute__
            return ["yours", read(value, "_remote_number")]
        if isinstance(value, tuple(PLAIN)):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._given)
            self._given.append(value)
        kind = "function" if callable(value) else "iterator" if isinstance(value, Iterator) else "object"
        return ["mine", self._numbers[id(value)], kind]

    def _standing(self, tag: str, parts: list[Any], decoder: Decoder) -> Any:
        number = as_index(parts[0])
        if tag == "yours":
            return self._given[number]
        if number not in self._remotes:
            self._remotes[number] = self._made(tag, number, parts[1:], decoder)
        return self._remotes[number]

    def _made(self, tag: str, number: int, parts: list[Any], decoder: Decoder) -> Any:
        """What stands for a class or an object of the program from now on."""
        if tag == "class":
            name, bases, specials, fields = parts
            return make_class(self, number, name, [decoder.decode(base) for base in bases], specials, fields)
        if tag == "named":
            key = (parts[0], *parts[1])
            if key not in self._named:
                self._named[key] = named_class(self, *parts)
            return stand_in(self._named[key], number)
        if tag != "object":
            raise Junk(f"tag {tag!r}")
        kind, data = (decoder.decode(part) for part in parts)
        made = stand_in(kind, number, data)
        if isinstance(made, tuple(MUTABLE)):
            self._followed = [*self._followed[1 - _MOST_FOLLOWED :], made]
        return made


def _by_name(names: list[str], text: str) -> BaseException:
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(str(text))
            except TypeError:  # UnicodeDecodeError and its like want more
                continue
    return Exception(str(text))
