"""A package whose public names are loaded when they are first used, so that what needs none of them does not wait."""

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A function that is named after a module, such as `extract`, is not hidden by that module's import."""

    _homes: Mapping[str, str]

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in self._homes and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(self._homes[name]), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def load_when_used(package: str, homes: Mapping[str, str]) -> None:
    """Let a package have public names: name -> the module that it is in, imported when the name is first asked for."""
    module = sys.modules[package]
    module.__dict__["_homes"] = homes
    module.__class__ = _LazyPackage


class _LazyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self.__name__), name)
        self.__dict__[name] = value
        return value


def lazy_module(name: str) -> Any:
    """A module that is imported when something of it is used."""
    return _LazyModule(name)
