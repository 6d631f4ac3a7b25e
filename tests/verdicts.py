"""The judge's verdicts beside plain CPython's, which runs program and tests in one process.

    python -m tests.verdicts DATA_DIR [--every 10] [--programs 200]

Over the data sets' own solutions (HumanEval, HumanEval+, MBPP), the same with a changed operator, and programs that
`programs` makes: functions and classes of every kind of result, under tests that hold and tests that do not.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from submodel.tasks.code.problem import program
from submodel.tasks.judge import Judge, Program
from submodel.tasks.sandbox import open_sandbox
from tests.solutions import mutants, read_problems

TASKS = ("humaneval", "humaneval+", "mbpp")
_SECONDS = 60

# imports and definitions, an expression of the program that makes a value, one of the tests' own that equals it
VALUES = (
    ("", "x * 3", "21"),
    ("", "-x / 2", "-3.5"),
    ("", "x ** 70", "7 ** 70"),
    ("", "complex(x, 1)", "(7 + 1j)"),
    ("", "str(x) + 'é'", "'7é'"),
    ("", "bytes([x])", "b'\\x07'"),
    ("", "bytearray([x, x])", "bytearray(b'\\x07\\x07')"),
    ("", "None", "None"),
    ("", "x == 7", "True"),
    ("", "[x, [x]]", "[7, [7]]"),
    ("", "(x, (x,))", "(7, (7,))"),
    ("", "{x: {x}, 'a': None}", "{7: {7}, 'a': None}"),
    ("", "frozenset({x, 1})", "frozenset({1, 7})"),
    ("", "range(x)", "range(7)"),
    ("", "{x: 1}.keys()", "{7: 0}.keys()"),
    ("", "{x: 1}.items()", "{7: 1}.items()"),
    ("from collections import Counter", "Counter([x, x])", "Counter({7: 2})"),
    ("from collections import OrderedDict", "OrderedDict([(x, 1), (1, x)])", "OrderedDict([(7, 1), (1, 7)])"),
    ("from collections import defaultdict", "defaultdict(list, {x: [1]})", "defaultdict(list, {7: [1]})"),
    ("from collections import deque", "deque([x], maxlen=3)", "deque([7], maxlen=3)"),
    ("from fractions import Fraction", "Fraction(x, 3)", "Fraction(7, 3)"),
    ("from decimal import Decimal", "Decimal(x) / 2", "Decimal('3.5')"),
    ("import datetime", "datetime.date(2020, 1, x)", "datetime.date(2020, 1, 7)"),
    ("import datetime", "datetime.timedelta(days=x)", "datetime.timedelta(days=7)"),
    ("from types import SimpleNamespace", "SimpleNamespace(a=x)", "SimpleNamespace(a=7)"),
    ("from collections import namedtuple\nP = namedtuple('P', 'a b')", "P(x, 1)", "P(7, 1)"),
    ("from typing import NamedTuple\nclass P(NamedTuple):\n    a: int\n    b: int = 1", "P(x)", "P(7, 1)"),
    ("from dataclasses import dataclass\n@dataclass(order=True)\nclass P:\n    a: int", "P(x)", "P(7)"),
    ("from dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n    a: int", "P(x)", "P(7)"),
    ("from enum import Enum\nclass P(Enum):\n    A = 7\n    B = 8", "P(x)", "P.A"),
    ("from enum import IntEnum\nclass P(IntEnum):\n    A = 7\n    B = 8", "P(x)", "P.A"),
    ("from enum import Flag\nclass P(Flag):\n    A = 1\n    B = 2", "P.A | P.B", "P.B | P.A"),
    ("class P(list):\n    def top(self): return self[-1]", "P([x])", "[7]"),
    ("class P(dict):\n    pass", "P(a=x)", "{'a': 7}"),
    ("class P(str):\n    pass", "P(x)", "'7'"),
    ("class P(int):\n    pass", "P(x)", "7"),
    ("class P(tuple):\n    pass", "P([x])", "(7,)"),
    ("class P:\n    def __init__(self, a): self.a = a\n    def __eq__(self, o): return self.a == o.a", "P(x)", "P(7)"),
)
# what tests say of a value V, which the tests' own W equals; true or false of it in plain Python, as it happens
CLAIMS = (
    "V == W", "V != W", "type(V) is type(W)", "isinstance(V, type(W))", "type(V).__name__ == type(W).__name__",
    "repr(V) == repr(W)", "str(V) == str(W)", "f'{V}' == f'{W}'", "bool(V) == bool(W)", "[V] == [W]", "V in [W]",
    "(V, 1) == (W, 1)", "{'k': V} == {'k': W}", "V is None", "V is True", "isinstance(V, int)", "isinstance(V, tuple)",
    "isinstance(V, (list, dict, str))", "len(V) == len(W)", "list(V) == list(W)", "sorted(V) == sorted(W)",
    "V[0] == W[0]", "V.a == W.a", "hash(V) == hash(W)", "V < W", "V <= W", "callable(V)", "copy.deepcopy(V) == W",
    "V + V == W + W", "V | V == W | W", "V.name == W.name", "V._fields == W._fields", "dict(V) == dict(W)",
    "hasattr(V, '__iter__')", "hasattr(V, '__len__')", "isinstance(V, collections.abc.Hashable)",
    "isinstance(V, collections.abc.Iterable)", "isinstance(V, collections.abc.Mapping)", "f(7) == f(7)",
    "dataclasses.is_dataclass(V)", "dataclasses.asdict(V) == {'a': 7}", "json.dumps(V) == json.dumps(W)",
)  # fmt: skip
_IMPORTS = "import collections.abc, copy, dataclasses, json\n"
# programs that are no expression: source, tests
WHOLE = (
    ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"),
    ("def f(n):\n    yield n", "import types\nassert isinstance(f(1), types.GeneratorType) and f(1) != [1]"),
    ("def f(n):\n    got = yield n\n    yield got", "g = f(1)\nassert next(g) == 1 and g.send(5) == 5"),
    ("class E(Exception):\n    pass\ndef f(): raise E('a')", "try:\n    f()\nexcept E as e:\n    assert str(e) == 'a'"),
    ("class E(KeyError):\n    pass\ndef f(): raise E(1)", "try:\n    f()\nexcept LookupError as e:\n    assert e.args"),
    ("def f(): raise ValueError('a', 2)", "try:\n    f()\nexcept ValueError as e:\n    assert e.args == ('a', 2)"),
    ("def f(): return {}['k']", "try:\n    f()\nexcept KeyError as e:\n    assert str(e) == \"'k'\""),
    ("def f(): return open('/nowhere')", "try:\n    f()\nexcept FileNotFoundError as e:\n    assert e.errno == 2"),
    ("def f(): return int('x')", "try:\n    f()\nexcept TypeError:\n    pass"),
    ("import sys\ndef f(): sys.exit(3)", "try:\n    f()\nexcept SystemExit as e:\n    assert e.code == 3"),
    ("import json\ndef f(): return json.loads('{')",
     "import json\ntry:\n    f()\nexcept json.JSONDecodeError:\n    pass"),
    ("def f(): return next(iter([]))", "try:\n    f()\nexcept StopIteration:\n    pass"),
    ("def f(a, b=2): return a", "try:\n    f()\nexcept TypeError as e:\n    assert 'missing' in str(e)"),
    ("from multiprocessing import Pool\ndef g(x): return x * x\ndef f(xs):\n    with Pool(2) as p: return p.map(g, xs)",
     "assert f([1, 2]) == [1, 4]"),
    ("from concurrent.futures import ProcessPoolExecutor\ndef g(x): return -x\ndef f(xs):\n"
     "    with ProcessPoolExecutor(2) as p: return list(p.map(g, xs))", "assert f([1, 2]) == [-1, -2]"),
    ("import multiprocessing as m\ndef g(q): q.put(5)\ndef f():\n    q = m.Queue()\n"
     "    p = m.Process(target=g, args=(q,)); p.start(); r = q.get(); p.join(); return r", "assert f() == 5"),
    ("class S:\n    _one = None\n    def __new__(cls):\n        cls._one = cls._one or object.__new__(cls)\n"
     "        return cls._one", "assert S() is S()"),
    ("class C:\n    count = 0\n    def __init__(self): C.count += 1", "C(); C()\nassert C.count == 2"),
    ("class C:\n    @staticmethod\n    def s(): return 1\n    @classmethod\n    def c(cls): return cls()\n"
     "    @property\n    def p(self): return 3", "assert C.s() == 1 and C.c().p == 3 and isinstance(C.c(), C)"),
    ("class A:\n    def who(self): return 'A'\nclass B(A):\n    pass",
     "assert issubclass(B, A) and isinstance(B(), A) and not isinstance(A(), B) and B().who() == 'A'"),
    ("class Stack(list):\n    def push(self, x): self.append(x)",
     "s = Stack()\ns.push(1)\ns.append(2)\nassert s == [1, 2] and s.pop() == 2 and s == [1]"),
    ("class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\n"
     "    def __mul__(self, k): return V(self.x * k)", "assert (V(1) + V(2)).x == 3 and (V(2) * 4).x == 8"),
    ("def f(x): x.append(1); return x", "a = []\nassert f(a) is a and a == [1]"),
    ("def f(g): return sorted([3, 1, 2], key=g)", "assert f(lambda v: -v) == [3, 2, 1]"),
    ("def f(n): n.v += 1", "class N:\n    v = 1\nn = N()\nf(n)\nassert n.v == 2"),
    ("import functools\n@functools.lru_cache\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
     "assert f(30) == 832040"),
    ("import functools\nf = functools.partial(int, base=2)", "assert f('101') == 5"),
    ("import operator\nf = operator.itemgetter(1)", "assert f([1, 2]) == 2"),
    ("def f(): return map(str, [1])", "assert isinstance(f(), map) and list(f()) == ['1']"),
    ("class M:\n    def __enter__(self): return 5\n    def __exit__(self, *a): return True",
     "with M() as m:\n    assert m == 5\n    raise ValueError"),
)  # fmt: skip


def programs(count: int, seed: int = 0) -> Iterator[Program]:
    """Programs with their tests: all of WHOLE, then `count` drawn from VALUES, each with three of CLAIMS or their like.

    A draw takes claims that may hold or not, so that both verdicts are met.
    """
    rng = random.Random(seed)
    for source, checks in WHOLE:
        yield Program("python", source, checks)
    for number in range(count):
        head, made, equal = VALUES[number % len(VALUES)]
        source = f"{head}\ndef f(x):\n    return {made}\ndef other():\n    return {equal}\n"
        imports = head.splitlines()[0] if head.startswith(("from", "import")) else ""
        own = equal if "P" not in equal else "other()"
        claims = rng.sample(CLAIMS, 3)
        lines = [
            f"try:\n    r{i} = bool({claim})\nexcept Exception as e:\n    r{i} = type(e).__name__"
            for i, claim in enumerate(claims)
        ]
        want = [_outcome(source, imports, own, claim) for claim in claims]
        if rng.random() < 0.2:
            want[rng.randrange(3)] = "another"
        checks = f"{_IMPORTS}{imports}\nV = f(7)\nW = {own}\n" + "\n".join(lines)
        yield Program("python", source, f"{checks}\nassert [r0, r1, r2] == {want!r}, [r0, r1, r2]\n")


def _outcome(source: str, imports: str, own: str, claim: str) -> object:
    """What plain Python says of a claim: its truth, or the name of the exception."""
    space: dict[str, object] = {"__name__": "plain"}
    exec(f"{source}\n{_IMPORTS}{imports}\nV = f(7)\nW = {own}", space)
    try:
        return bool(eval(claim, space))
    except Exception as error:
        return type(error).__name__


def plain_verdict(one: Program) -> bool:
    """Whether program and tests run to their end in one process of plain CPython."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"
        file.write_text(f"{one.source}\n{one.checks}\n", encoding="utf-8", errors="surrogatepass")
        try:
            done = subprocess.run([sys.executable, str(file)], capture_output=True, timeout=_SECONDS, cwd=folder)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def differences(judge: Judge, cases: list[tuple[str, Program]]) -> list[str]:
    """A line for each program of which the judge says other than plain CPython."""

    def line(case: tuple[str, Program]) -> str:
        verdict, plain = judge.judge(case[1]), plain_verdict(case[1])
        return "" if verdict.passed == plain else f"{case[0]}: plain {plain}, judged {verdict.status}: {verdict.detail}"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [text for text in pool.map(line, cases) if text]


def solutions(name: str, data_dir: Path, every: int = 1) -> list[tuple[str, Program]]:
    """A data set's own solutions, and each with its last operator changed."""
    cases: list[tuple[str, Program]] = []
    for problem in read_problems(name, data_dir, every):
        assert problem.solution is not None
        cases.append((problem.id, program(problem, problem.solution)))
        cases += [(f"{problem.id} changed", program(problem, text)) for text in [*mutants(problem.solution)][:1]]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--programs", type=int, default=200)
    args = parser.parse_args()
    judge = Judge(open_sandbox())
    groups = {name: solutions(name, args.data_dir, args.every) for name in TASKS}
    groups["made programs"] = [(f"program {i}", one) for i, one in enumerate(programs(args.programs))]
    for name, cases in groups.items():
        lines = differences(judge, cases)
        print(f"{name}: {len(cases) - len(lines)} of {len(cases)} verdicts are plain CPython's", flush=True)
        for text in lines:
            print(f"  {text}", flush=True)


if __name__ == "__main__":
    main()
