"""The process of the tests: runs them against proxies of the program's functions and says what came of it.

usage: main(), this folder on sys.path, argv SOCKET SITE_PACKAGES..., {"context", "checks", "entry"} on standard input

Writes one JSON object {"status", "detail"} to its standard output. Only trusted text runs in this process.
"""

import builtins
import importlib
import json
import os
import sys
import types
from typing import Any

from python_channel import Gone  # pyright: ignore[reportMissingImports]
from python_codec import Junk  # pyright: ignore[reportMissingImports]
from python_remote import Program  # pyright: ignore[reportMissingImports]


def check(program: Program, context: str, checks: str, entry: str) -> tuple[str, str]:
    """(status, one line of detail)."""
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    try:
        exec(compile(context, "context.py", "exec", dont_inherit=True), space)
        tests = compile(checks, "checks.py", "exec", dont_inherit=True)
    except Exception as error:
        return "bad test", _line(error)
    try:
        program.ask("load")
        names = program.ask("names")
        if not isinstance(names, dict):
            raise Junk("no table of names")
    except (Gone, Junk) as failure:
        return _failed(failure)
    except SyntaxError as error:
        return "compile", _line(error)
    except MemoryError:
        return "memory", "MemoryError while it was loaded"
    except Exception as error:
        return "error", f"while it was loaded: {_line(error)}"
    try:
        if entry and entry not in names:
            return "missing", f"the program does not define {entry}"
        for name in [entry] if entry else _tested(checks, set(names)):
            space[name] = program.ask("global", name)
        if not entry:
            _import_modules(checks, names, space)
        exec(tests, space)
    except BaseException as error:
        return _failed(program.failure) if program.failure is not None else _raised(error, checks)
    return _failed(program.failure) if program.failure is not None else ("passed", "")


def _tested(checks: str, defined: set[str]) -> list[str]:
    """Names that the tests use and the program defines.

    A builtin, or a module of the standard library, stays what it is: else a program could bring its own `set` or
    `math`. Only where nothing else is left is a function under test called like a builtin.
    """
    used, modules = _used(checks)
    common = sorted((used - modules) & defined)
    return [name for name in common if not hasattr(builtins, name)] or common


def _used(checks: str) -> tuple[set[str], set[str]]:
    """Names that the tests read, and those of them used as modules of the standard library."""
    import ast  # slow to load, and not needed where the function under test is named

    nodes = list(ast.walk(ast.parse(checks)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    owners = {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    return used, owners & set(sys.stdlib_module_names)


def _import_modules(checks: str, names: dict[str, str], space: dict[str, Any]) -> None:
    """Modules that the tests use by a name that only the program imports: our own copies of them."""
    for name in _used(checks)[0] & set(names):
        module = names[name]
        if isinstance(module, str) and module.split(".")[0] in {*sys.stdlib_module_names, "numpy"}:
            space[name] = importlib.import_module(module)


def _raised(error: BaseException, checks: str) -> tuple[str, str]:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "checks.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = checks.splitlines()
    where = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    if isinstance(error, AssertionError):
        return "wrong", where
    if isinstance(error, SystemExit):
        return "early exit", "it ended before its tests did"
    if isinstance(error, MemoryError):
        return "memory", f"MemoryError at: {where}"
    return "error", f"{_line(error)} at: {where}"


def _failed(failure: BaseException) -> tuple[str, str]:
    return ("gone", "") if isinstance(failure, Gone) else ("error", f"answered with junk: {failure}")


def _line(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}"


def main() -> None:
    """Judge the task on standard input; never returns."""
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # else one a core, over our limits
    sys.path += sys.argv[2:]
    task = json.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)  # tests may print
    os.dup2(null, 1)
    os.dup2(null, 2)
    status, detail = check(
        Program(int(sys.argv[1]), "StopIteration" in task["checks"]), task["context"], task["checks"], task["entry"]
    )
    os.write(report, json.dumps({"status": status, "detail": detail[:300]}).encode())
    os._exit(0)
