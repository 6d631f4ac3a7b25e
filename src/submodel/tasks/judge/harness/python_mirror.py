"""Classes that stand for the program's own: a test may make objects of them, catch them, derive and compare them.

An object of the program is one of these classes here. One that derives from plain data (a namedtuple, a member of an
IntEnum, a subclass of list) holds that data itself, so that the test compares data and not what the program says of it;
its other attributes are asked for.

An operator with plain data shows the program what a test expects. So its answer has to be an object again, which never
becomes a number: else `abs(f(1) - 2) < 1e-6` could be answered with 0.
"""

import dataclasses
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from python_codec import PLAIN, Junk, plain_kind  # pyright: ignore[reportMissingImports]


def _fill_list(target: Any, content: Any) -> None:
    list.__setitem__(target, slice(None), content)


def _fill_set(target: Any, content: Any) -> None:
    set.clear(target)
    set.update(target, content)


def _fill_dict(target: Any, content: Any) -> None:
    kind: Any = OrderedDict if isinstance(target, OrderedDict) else dict  # an ordered one keeps its order apart
    kind.clear(target)
    for key, value in content.items():
        kind.__setitem__(target, key, value)


def _fill_deque(target: Any, content: Any) -> None:
    deque.clear(target)
    deque.extend(target, content)


MUTABLE: dict[type, Callable[[Any, Any], None]] = {
    list: _fill_list,
    set: _fill_set,
    dict: _fill_dict,
    deque: _fill_deque,
}
"""Kinds of plain data that a method may change -> how the copy here gets its new items."""

_BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
_UNARY = "neg pos abs invert".split()
_NUMBERS = {"int": int, "float": float, "complex": complex, "index": int, "round": None}
_COMPARED = ("lt", "le", "gt", "ge")
# of a subclass of plain data: what changes it, and what shows no expected value to the program
_CHANGING = frozenset(
    "append extend insert remove pop clear sort reverse popitem update setdefault add discard appendleft popleft "
    "extendleft rotate intersection_update difference_update symmetric_difference_update".split()
)
_SHOWING = frozenset("get keys values items copy".split())
_SHOWN_OF_DATA = frozenset(
    "__str__ __repr__ __getitem__ __missing__ __len__ __iter__ __call__ __enter__ __exit__".split()
)
_REAL = {
    "generator": types.GeneratorType,
    "function": types.FunctionType,
    "builtin_function_or_method": types.BuiltinFunctionType,
    "method": types.MethodType,
    "coroutine": types.CoroutineType,
    "module": types.ModuleType,
    **{kind.__name__: kind for kind in (map, filter, zip, enumerate, reversed)},
}
# what a test may ask of an object by a name between underscores
_ASKED = frozenset(
    "__name__ __qualname__ __module__ __doc__ __dict__ __annotations__ __members__ __slots__ __wrapped__".split()
)


class RemoteType(type):
    """The class of the classes that stand for the program's own."""

    _remote_program: Any
    _remote_number: int

    def __call__(cls, *args: Any, **named: Any) -> Any:
        return _program(cls).ask("call", cls, list(args), named)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name not in _ASKED or name.startswith("_remote"):
            raise AttributeError(name)
        return _program(cls).ask("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        _program(cls).ask("setattr", cls, name, value)

    def __getitem__(cls, key: Any) -> Any:
        return _program(cls).ask("getitem", cls, key)

    def __iter__(cls) -> Any:
        return _program(cls).ask("iter", cls)

    def __len__(cls) -> int:
        return _program(cls).expect(int, "len", cls)

    def __bool__(cls) -> bool:
        return True

    def __str__(cls) -> str:
        return _program(cls).expect(str, "str", cls)

    def __repr__(cls) -> str:
        return _program(cls).expect(str, "repr", cls)

    def __instancecheck__(cls, instance: Any) -> bool:
        if type.__instancecheck__(cls, instance):
            return True
        return isinstance(type(instance), RemoteType) and _program(cls).expect(bool, "isinstance", instance, cls)


class Remote(metaclass=RemoteType):
    """An object of the program under test."""

    def __getattr__(self, name: str) -> Any:
        # the dunders that copying, printing and numeric protocols look for are not the program's to answer
        if name.startswith("__") and name.endswith("__") and name not in _ASKED:
            raise AttributeError(name)
        return _program(self).ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _program(self).ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _program(self).ask("special", self, "__delattr__", name)

    def __copy__(self) -> Any:
        return _program(self).ask("copy", self)

    def __deepcopy__(self, memo: Any) -> Any:
        return _program(self).ask("deepcopy", self)

    def __bool__(self) -> bool:
        return _program(self).expect(bool, "bool", self)

    def __str__(self) -> str:
        return _program(self).expect(str, "str", self)

    def __repr__(self) -> str:
        return _program(self).expect(str, "repr", self)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __hash__(self) -> int:
        return _program(self).expect(int, "hash", self)

    def __eq__(self, other: object) -> bool:
        if not is_remote(other):
            return False
        return self is other or _program(self).expect(bool, "equal", self, other)


def _program(remote: Any) -> Any:
    read = type.__getattribute__ if isinstance(remote, type) else object.__getattribute__
    return read(remote, "_remote_program")


def is_remote(value: Any) -> bool:
    """Whether it stands for something of the program."""
    return isinstance(type(value), RemoteType) or isinstance(value, RemoteType)


def refuse(value: Any, *kinds: type) -> type:
    """The kind that a value is of exactly; raises Junk where it is of none."""
    if type(value) not in kinds:
        raise Junk(f"a {type(value).__name__}")
    return type(value)


def make_class(
    program: Any, number: int, name: str, bases: list[Any], specials: Sequence[str], fields: Sequence[str]
) -> type:
    """The class that stands for one of the program's."""
    data = [base for base in bases if not isinstance(base, RemoteType)]
    if not all(isinstance(base, type) and (plain_kind(base) or issubclass(base, BaseException)) for base in data):
        raise Junk(f"bases of {name}")
    own = [base for base in bases if isinstance(base, RemoteType)]
    has_data = any(plain_kind(base) for base in bases)
    space: dict[str, Any] = {"_remote_program": program, "_remote_number": number, "__module__": "candidate"}
    space |= _methods(set(specials), has_data)
    if fields:
        space["__dataclass_fields__"] = {field: _field(field) for field in fields}
    # data's methods come before ours, which come before an exception's
    ordered = [*own, *data, Remote] if has_data else [*own, Remote, *data]
    bases = [base for base in dict.fromkeys(ordered) if base is not Remote or not own]
    try:
        return type.__new__(RemoteType, str(name), tuple(bases), space)
    except TypeError:  # bases that left out ones no longer have an order for
        return type.__new__(RemoteType, str(name), (bases[0],), space)


def named_class(program: Any, name: str, specials: Sequence[str]) -> type:
    """A class for objects of the standard library, such as functions and generators."""
    space: dict[str, Any] = {"_remote_program": program, "_remote_number": -1, **_methods(set(specials), False)}
    if name in _REAL:
        real = _REAL[name]
        space["__class__"] = property(lambda self: real)
    return type.__new__(RemoteType, str(name), (Remote,), space)


def stand_in(kind: Any, number: int, data: Any = None) -> Any:
    """The object of the program that has a number: of a class from `make_class` with its data, or an exception."""
    if not isinstance(kind, RemoteType):
        return data if plain_kind(kind) else _library_exception(kind, data)
    if issubclass(kind, BaseException):
        args, _ = data
        made = kind.__new__(kind, *args)
    elif (of := plain_kind(kind)) is None:
        made = object.__new__(kind)
    elif of in MUTABLE:
        refuse(data, of)
        made = kind.__new__(kind)  # pyright: ignore[reportCallIssue]
        MUTABLE[of](made, data)
    else:
        refuse(data, of)
        made = kind.__new__(kind, data)
    object.__setattr__(made, "_remote_number", number)
    return made


def _library_exception(kind: Any, data: Any) -> BaseException:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise Junk(f"an object of {kind!r}")
    args, text = data
    try:
        error = kind(*args)
    except Exception:  # it takes other arguments than it keeps
        error = kind.__new__(kind)
        error.args = tuple(args)
    return error if str(error) == text or args else kind(text)


def _field(name: str) -> Any:
    field = dataclasses.field()
    field.name = name
    field._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
    return field


def _methods(specials: set[str], has_data: bool) -> dict[str, Any]:
    """The methods of a class that defines these names."""
    if has_data:
        space = {name: _METHODS[name] for name in specials & _SHOWN_OF_DATA if name in _METHODS}
        if "__missing__" in specials:
            space["__getitem__"] = _METHODS["__getitem__"]
        space |= {name: _DATA_METHODS[name] for name in _DATA_METHODS}
        return space | {name: _asked(name) for name in _CHANGING | (specials & _SHOWING)}
    space = {name: method for name, method in _METHODS.items() if name in specials}
    return space | {"__hash__": None} if "unhashable" in specials else space


def _asked(name: str) -> Any:
    return property(lambda self: _program(self).ask("getattr", self, name))


def _special(name: str) -> Callable[..., Any]:
    return lambda self, *args: _program(self).ask("special", self, name, *args)


def _binary(name: str, is_reflected: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        operands = (other, self) if is_reflected else (self, other)
        value = _program(self).ask("operator", f"{name}_" if name in ("and", "or") else name, *operands)
        shown = not is_remote(other) or _is_shown(self) or _is_shown(other)
        return _shown(name, value) if shown else value

    return method


def _unary(name: str) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        value = _program(self).ask("operator", name, self)
        return _shown(name, value) if _is_shown(self) else value

    return method


def _compared(name: str) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if not is_remote(other) or _is_shown(self) or _is_shown(other):
            return NotImplemented
        return _program(self).expect(bool, "operator", name, self, other)

    return method


def _number(name: str, kind: type | None) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        if _is_shown(self):
            raise TypeError(f"{name} of an object that has seen the test's own value")
        value = _program(self).ask("special", self, f"__{name}__", *args)
        if kind is not None and type(value) is not kind:
            raise TypeError(f"__{name}__ should return {kind.__name__}, not {type(value).__name__}")
        return value

    return method


def _shown(name: str, value: Any) -> Any:
    """An answer of the program after it has seen a value of the test's own."""
    if not is_remote(value) or isinstance(value, RemoteType) or plain_kind(type(value)):
        raise TypeError(f"{name} of an object and plain data is believed only if it is an object again")
    object.__setattr__(value, "_remote_is_shown", True)
    return value


def _is_shown(value: Any) -> bool:
    return "_remote_is_shown" in object.__getattribute__(value, "__dict__")


_METHODS: dict[str, Any] = {
    "__call__": lambda self, *args, **named: _program(self).ask("call", self, list(args), named),
    "__getitem__": lambda self, key: _program(self).ask("getitem", self, key),
    "__setitem__": lambda self, key, value: _program(self).ask("setitem", self, key, value),
    "__delitem__": lambda self, key: _program(self).ask("delitem", self, key),
    "__iter__": lambda self: _program(self).ask("iter", self),
    "__next__": lambda self: _program(self).ask("next", self),
    "__len__": lambda self: _program(self).expect(int, "len", self),
    "__str__": Remote.__str__,
    "__repr__": Remote.__repr__,
    **{name: _special(name) for name in ("__enter__", "__exit__", "__reversed__")},
    **{f"__{name}__": _binary(name, False) for name in _BINARY},
    **{f"__r{name}__": _binary(name, True) for name in _BINARY},
    **{f"__i{name}__": _binary(f"i{name}", False) for name in _BINARY},
    **{f"__{name}__": _unary(name) for name in _UNARY},
    **{f"__{name}__": _compared(name) for name in _COMPARED},
    **{f"__{name}__": _number(name, kind) for name, kind in _NUMBERS.items()},
}
_DATA_METHODS = {name: _METHODS[name] for name in ("__setitem__", "__delitem__")}
assert all(kind in PLAIN for kind in MUTABLE)
