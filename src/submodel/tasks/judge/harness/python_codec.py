"""Python values as JSON, so that what a judged program answers can be read without running any of it.

A scalar that JSON has is itself; everything else is a list that starts with a tag. Containers are numbered as they are
met, so that a second occurrence is a reference and a value may contain itself. Classes of the standard library travel
by their name; any other object by a handle: a number that its owner knows, and what its owner says of it.
"""

import importlib
import math
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

LIBRARY = frozenset(
    "builtins collections collections.abc fractions decimal datetime enum functools itertools numbers abc re json "
    "json.decoder array uuid queue dataclasses types".split()
)
"""Modules of the standard library whose classes either side may name to the other."""
_SMALL = 1 << 53
_ARRAY_KINDS = "biufcU"


class Junk(Exception):
    """What came is not a value in this encoding."""


class Encoder:
    """Values of one message.

    `handle(value, encoder)` names an object that is not plain data; None where it is to travel as the plain kind that
    its class derives from.
    """

    def __init__(self, handle: Callable[[Any, "Encoder"], Any], known: dict[int, list[Any]] | None = None):
        self._handle = handle
        self._seen = dict(known or {})  # id of a container: how to refer to it
        self._keep: list[Any] = []  # ids stay valid while their objects live
        self.containers: list[Any] = []

    def encode(self, value: Any) -> Any:
        """One value as something that `json` can write."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind in _SCALARS:
            return _SCALARS[kind](value)
        if id(value) in self._seen:
            return self._seen[id(value)]
        if kind in _CONTAINERS:
            self._seen[id(value)] = ["ref", len(self.containers)]
            self.containers.append(value)
            return self.content(value)
        if kind in _ITEMS:
            return [_ITEMS[kind], [self.encode(item) for item in value]]
        if kind in (range, slice):
            return [kind.__name__, *[self.encode(part) for part in (value.start, value.stop, value.step)]]
        if isinstance(value, type) and (name := library_name(value)):
            return ["library", *name]
        if value is Ellipsis or value is NotImplemented:
            return [repr(value)]
        for tag, (module, name, state, _) in _RARE.items():
            if kind is getattr(sys.modules.get(module), name, None):
                return [tag, self.encode(state(value))]
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in _ARRAY_KINDS:
            return self.encode(value.item())
        if numpy is not None and kind is numpy.ndarray and value.dtype.kind in _ARRAY_KINDS:
            flat = [self.encode(item) for item in value.ravel().tolist()]
            return ["array", value.dtype.str, list(value.shape), flat]
        self._keep.append(value)
        node = self._handle(value, self)
        return self.encode(plain(value)) if node is None else node

    def content(self, value: Any) -> Any:
        """A container's own tag and items, without the reference it may already have."""
        kind = type(value)
        if kind is bytearray:
            return ["bytearray", bytes(value).hex()]
        if not isinstance(value, dict):
            return [kind.__name__, [self.encode(item) for item in value], *([value.maxlen] if kind is deque else [])]
        pairs = [[self.encode(key), self.encode(item)] for key, item in _dict_of(value).items(value)]
        return [kind.__name__, pairs, *([self.encode(value.default_factory)] if isinstance(value, defaultdict) else [])]


def _dict_of(value: Any) -> Any:
    """The class whose methods see a dict as it is: an ordered one keeps its order apart."""
    return OrderedDict if isinstance(value, OrderedDict) else dict


def library_name(kind: type) -> tuple[str, str] | None:
    """(module, name) of a class of LIBRARY; None of any other."""
    module, name = getattr(kind, "__module__", ""), getattr(kind, "__qualname__", "")
    if kind is type(None):
        return "types", "NoneType"
    is_named = module in LIBRARY and getattr(sys.modules.get(module), name, None) is kind
    return (module, name) if is_named else None


def plain_kind(kind: type) -> type | None:
    """The kind of plain data that a class derives from; None for a class of other objects."""
    return next((one for one in kind.__mro__ if one in PLAIN), None)


def plain(value: Any) -> Any:
    """The plain data in an object whose class derives from a plain kind, whatever its own methods would say."""
    kind = plain_kind(type(value))
    assert kind is not None
    return PLAIN[kind](value)


class Decoder:
    """The other direction. `handle(tag, parts, decoder)` makes what stands for an object of either side."""

    def __init__(self, handle: Callable[[str, list[Any], "Decoder"], Any], known: list[Any] | None = None):
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
        tag, part, *_ = node
        if type(container).__name__ != tag or tag not in _EMPTY:
            raise Junk(f"{tag!r} for a {type(container).__name__}")
        if tag == "bytearray":
            container[:] = bytes.fromhex(part)
        else:
            self.replace(container, part)

    def replace(self, container: Any, part: Any) -> None:
        """Give a list, deque, set or dict, of whatever subclass, other items."""
        if isinstance(container, dict):
            pairs = [(self.decode(key), self.decode(item)) for key, item in part]
            kind = _dict_of(container)
            kind.clear(container)
            for key, item in pairs:
                kind.__setitem__(container, key, item)
            return
        items = [self.decode(item) for item in part]
        sequence: Any = next(kind for kind in (list, deque, set) if isinstance(container, kind))
        sequence.clear(container)
        getattr(sequence, "update" if sequence is set else "extend")(container, items)

    def _tagged(self, tag: str, parts: list[Any]) -> Any:
        if tag in _EMPTY:
            container = _EMPTY[tag](*[self.decode(part) for part in parts[1:]])
            self.containers.append(container)  # before its items: they may refer to it
            self.fill(container, [tag, parts[0]])
            return container
        if tag == "ref":
            return self.containers[as_index(parts[0])]
        if tag == "known":
            return self._known[as_index(parts[0])]
        if tag in _MAKE:
            return _MAKE[tag](*[self.decode(part) for part in parts])
        if tag in _OF_ITEMS:
            return _OF_ITEMS[tag]([self.decode(item) for item in parts[0]], *parts[1:])
        if tag in _RARE:
            module, name, _, build = _RARE[tag]
            return build(getattr(importlib.import_module(module), name), self.decode(parts[0]))
        if tag == "array":
            return _array(parts[0], parts[1], [self.decode(item) for item in parts[2]])
        if tag == "library":
            return library_class(*parts)
        if tag in HANDLES:
            return self._handle(tag, parts, self)
        raise Junk(f"tag {tag!r}")


HANDLES = ("mine", "yours", "class", "object", "named")


def library_class(module: Any, name: Any) -> type:
    """The class that `library_name` has named. Raises Junk for anything else."""
    kind = getattr(importlib.import_module(module), name, None) if module in LIBRARY else None
    if not isinstance(kind, type):
        raise Junk(f"{module}.{name} as a class")
    return kind


def as_index(value: Any) -> int:
    """A number of something. Raises Junk for anything else."""
    if type(value) is not int or value < 0:
        raise Junk(f"index {value!r}")
    return value


def _encode_int(value: int) -> Any:
    return value if -_SMALL < value < _SMALL else ["int", hex(value)]


def _encode_float(value: float) -> Any:
    return value if math.isfinite(value) else ["float", repr(value)]


def _encode_str(value: str) -> Any:
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


_SCALARS: dict[type, Callable[[Any], Any]] = {
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
    complex: lambda value: ["complex", _encode_float(value.real), _encode_float(value.imag)],
    bytes: lambda value: ["bytes", value.hex()],
}
_CONTAINERS = frozenset((list, dict, set, bytearray, deque, OrderedDict, defaultdict, Counter))
_VIEWS = {type({}.keys()): "dict_keys", type({}.values()): "dict_values", type({}.items()): "dict_items"}
_ITEMS: dict[type, str] = {tuple: "tuple", frozenset: "frozenset", **_VIEWS}
# kinds of plain data -> the plain copy of one of its subclass, by the kind's own methods
PLAIN: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: lambda value: int.__pos__(value),
    float: lambda value: float.__pos__(value),
    complex: lambda value: complex(value.real, value.imag),
    str: lambda value: "".join(str.__iter__(value)),
    bytes: lambda value: bytes(bytes.__iter__(value)),
    bytearray: lambda value: bytearray(bytearray.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    deque: lambda value: deque(deque.__iter__(value), value.maxlen),
    dict: lambda value: dict(_dict_of(value).items(value)),
}
# values of modules that most programs never load: (module, class, its state as plain data, and back)
_RARE: dict[str, tuple[str, str, Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "fraction": ("fractions", "Fraction", lambda value: [value.numerator, value.denominator], _call_with),
    "decimal": ("decimal", "Decimal", lambda value: [str(value)], _call_with),
    "datetime": ("datetime", "datetime", lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "date": ("datetime", "date", lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "time": ("datetime", "time", lambda value: value.isoformat(), lambda kind, text: kind.fromisoformat(text)),
    "timedelta": ("datetime", "timedelta", lambda value: [value.days, value.seconds, value.microseconds], _call_with),
    "uuid": ("uuid", "UUID", lambda value: [str(value)], _call_with),
    "typed array": ("array", "array", lambda value: [value.typecode, value.tolist()], _call_with),
    "namespace": ("types", "SimpleNamespace", lambda value: vars(value), lambda kind, state: kind(**state)),
    "proxy": ("types", "MappingProxyType", lambda value: [dict(value)], _call_with),
}
_EMPTY: dict[str, Callable[..., Any]] = {
    **{kind.__name__: kind for kind in (list, dict, set, bytearray, OrderedDict, Counter)},
    "deque": lambda maxlen: deque(maxlen=maxlen),
    "defaultdict": defaultdict,
}
_OF_ITEMS: dict[str, Callable[..., Any]] = {
    "tuple": tuple,
    "frozenset": frozenset,
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}
_MAKE: dict[str, Callable[..., Any]] = {
    "int": lambda digits: int(digits, 16),
    "float": float,
    "str": _decode_str,
    "complex": complex,
    "bytes": bytes.fromhex,
    "range": lambda start, stop, step: range(start, stop, step),
    "slice": slice,
    "Ellipsis": lambda: Ellipsis,
    "NotImplemented": lambda: NotImplemented,
}
