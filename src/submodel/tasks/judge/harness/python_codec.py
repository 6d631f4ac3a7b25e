"""Plain Python values as JSON, so that what a judged program answers can be read without running any of it.

A scalar that JSON has is itself; everything else is a list that starts with a tag. Lists, dicts, sets and byte arrays
are numbered as they are met, so that a second occurrence is a reference and a value may contain itself. Subclasses
travel as the plain kind. Any other object travels as a handle: a number that its owner knows.
"""

import importlib
import math
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

BUILTIN_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, slice)
} | {"object": object, "type": type, "NoneType": type(None)}
_SMALL = 1 << 53
_ARRAY_KINDS = "biufcU"


class Junk(Exception):
    """What came is not a value in this encoding."""


class Encoder:
    """Values of one message. `handle(value)` names an object that is not plain data."""

    def __init__(self, handle: Callable[[Any], list[Any]], known: dict[int, list[Any]] | None = None):
        self._handle = handle
        self._seen = dict(known or {})  # id of a container: how to refer to it
        self._keep: list[Any] = []  # ids stay valid while their objects live
        self.containers: list[Any] = []

    def encode(self, value: Any) -> Any:
        """One value as something that `json` can write."""
        if value is None or value is True or value is False:
            return value
        for kind, encode in _SCALARS:
            if isinstance(value, kind):
                return encode(value)
        if id(value) in self._seen:
            return self._seen[id(value)]
        if isinstance(value, list | dict | set | bytearray):
            self._seen[id(value)] = ["ref", len(self.containers)]
            self.containers.append(value)
            return self.content(value)
        if isinstance(value, tuple):
            return ["tuple", [self.encode(item) for item in tuple.__iter__(value)]]
        if isinstance(value, frozenset):
            return ["frozenset", [self.encode(item) for item in frozenset.__iter__(value)]]
        if type(value) is deque:
            return ["deque", [self.encode(item) for item in value], value.maxlen]
        if type(value) in (range, slice):
            return [type(value).__name__, *[self.encode(part) for part in (value.start, value.stop, value.step)]]
        if isinstance(value, type) and BUILTIN_TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        if value is Ellipsis or value is NotImplemented:
            return [repr(value)]
        for tag, (module, name, state, _) in _RARE.items():
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and type(value) is kind:
                return [tag, self.encode(state(value))]
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biufc":
            return self.encode(value.item())
        if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in _ARRAY_KINDS:
            flat = [self.encode(item) for item in value.ravel().tolist()]
            return ["array", value.dtype.str, list(value.shape), flat]
        self._keep.append(value)
        return self._handle(value)

    def content(self, value: Any) -> Any:
        """A container's own tag and items, without the reference it may already have."""
        if isinstance(value, list):
            return ["list", [self.encode(item) for item in list.__iter__(value)]]
        if isinstance(value, dict):
            return ["dict", [[self.encode(key), self.encode(item)] for key, item in dict.items(value)]]
        if isinstance(value, set):
            return ["set", [self.encode(item) for item in set.__iter__(value)]]
        return ["bytearray", bytes(value).hex()]


class Decoder:
    """The other direction. `handle(tag, number, name)` makes what stands for an object of either side."""

    def __init__(self, handle: Callable[[str, int, str], Any], known: list[Any] | None = None):
        self._handle = handle
        self._known = known or []
        self.containers: list[Any] = []

    def decode(self, node: Any) -> Any:
        """One value; Junk where `node` is none."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        try:
            return self._tagged(node[0], node[1:])
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise Junk(f"{type(error).__name__}: {error}") from None

    def fill(self, container: Any, node: Any) -> None:
        """Give an existing container the content that `node` tells."""
        tag, part = node
        if tag == "list" and isinstance(container, list):
            container[:] = [self.decode(item) for item in part]
        elif tag == "dict" and isinstance(container, dict):
            items = [(self.decode(key), self.decode(item)) for key, item in part]
            container.clear()
            for key, item in items:
                container[key] = item
        elif tag == "set" and isinstance(container, set):
            items = [self.decode(item) for item in part]
            container.clear()
            container.update(items)
        elif tag == "bytearray" and isinstance(container, bytearray):
            container[:] = bytes.fromhex(part)
        else:
            raise Junk(f"{tag!r} for a {type(container).__name__}")

    def _tagged(self, tag: str, parts: list[Any]) -> Any:
        if tag in _EMPTY:
            container = _EMPTY[tag]()
            self.containers.append(container)  # before its items: they may refer to it
            self.fill(container, [tag, parts[0]])
            return container
        if tag == "ref":
            return self.containers[_index(parts[0])]
        if tag == "known":
            return self._known[_index(parts[0])]
        if tag in _MAKE:
            return _MAKE[tag](*[self.decode(part) for part in parts])
        if tag in _OF_ITEMS:
            return _OF_ITEMS[tag]([self.decode(item) for item in parts[0]], *parts[1:])
        if tag in _RARE:
            module, name, _, build = _RARE[tag]
            return build(getattr(importlib.import_module(module), name), self.decode(parts[0]))
        if tag == "array":
            return _array(parts[0], parts[1], [self.decode(item) for item in parts[2]])
        if tag in ("mine", "yours"):
            return self._handle(tag, _index(parts[0]), str(parts[1]))
        raise Junk(f"tag {tag!r}")


def _index(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise Junk(f"index {value!r}")
    return value


def _encode_int(value: int) -> Any:
    value = int(value)
    return value if -_SMALL < value < _SMALL else ["int", hex(value)]


def _encode_float(value: float) -> Any:
    value = float(value)
    return value if math.isfinite(value) else ["float", repr(value)]


def _encode_str(value: str) -> Any:
    value = str.__str__(value)
    try:
        value.encode()
    except UnicodeEncodeError:  # two lone surrogates side by side would come back as one character
        return ["str", "".join(f"{ord(character):08x}" for character in value)]
    return value


def _decode_str(digits: str) -> str:
    return "".join(chr(int(digits[at : at + 8], 16)) for at in range(0, len(digits), 8))


def _call_with(kind: Any, parts: list[Any]) -> Any:
    return kind(*parts)


def _array(dtype: str, shape: list[int], flat: list[Any]) -> Any:
    import numpy

    if numpy.dtype(dtype).kind not in _ARRAY_KINDS:
        raise Junk(f"array of {dtype!r}")
    return numpy.array(flat, dtype=dtype).reshape(shape)


_SCALARS: list[tuple[type, Callable[[Any], Any]]] = [
    (int, _encode_int),
    (float, _encode_float),
    (str, _encode_str),
    (complex, lambda value: ["complex", _encode_float(value.real), _encode_float(value.imag)]),
    (bytes, lambda value: ["bytes", value.hex()]),
]
# values of modules that most programs never load: (module, class, its state as plain data, and back)
_RARE: dict[str, tuple[str, str, Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "fraction": ("fractions", "Fraction", lambda value: [value.numerator, value.denominator], _call_with),
    "decimal": ("decimal", "Decimal", lambda value: [str(value)], _call_with),
    "datetime": ("datetime", "datetime", lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "date": ("datetime", "date", lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "timedelta": ("datetime", "timedelta", lambda value: [value.days, value.seconds, value.microseconds], _call_with),
}
_EMPTY: dict[str, Callable[..., Any]] = {"list": list, "dict": dict, "set": set, "bytearray": bytearray}
_OF_ITEMS: dict[str, Callable[..., Any]] = {"tuple": tuple, "frozenset": frozenset, "deque": deque}
_MAKE: dict[str, Callable[..., Any]] = {
    "int": lambda digits: int(digits, 16),
    "float": float,
    "str": _decode_str,
    "complex": complex,
    "bytes": bytes.fromhex,
    "range": lambda start, stop, step: range(start, stop, step),
    "slice": slice,
    "type": BUILTIN_TYPES.__getitem__,
    "Ellipsis": lambda: Ellipsis,
    "NotImplemented": lambda: NotImplemented,
}
