"""Right and wrong programs in every language, and the encoding between the two processes of a Python judgement."""

import json
import sys
import threading
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.tasks import judge as package
from submodel.tasks.judge import LANGUAGES, Judge, Program, Verdict, missing_toolchain
from submodel.tasks.judge.harness.python_codec import Decoder, Encoder, Junk
from submodel.tasks.judge.java import classes
from submodel.tasks.sandbox import Limits, open_sandbox
from tests.test_sandbox import needs_sandbox

WHOLE = {
    "cpp": "#include <cassert>\nint f(int x) {{ return x + {0}; }}\nint main() {{ assert(f(1) == 2); }}\n",
    "java": "class Problem {{ static int f(int x) {{ return x + {0}; }}\n"
    "public static void main(String[] args) {{ assert f(1) == 2; }} }}\n",
    "javascript": "const f = (x) => x + {0}\nrequire('node:assert').deepEqual(f(1), 2)\n",
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(open_sandbox(), Limits(seconds=10, memory_bytes=512 << 20))


def python(judge: Judge, source: str, checks: str, context: str = "", entry: str = "") -> Verdict:
    return judge.judge(Program("python", source, checks=checks, context=context, entry=entry))


def need(language: str) -> None:
    if missing := missing_toolchain(language):
        pytest.skip(missing)


# ---- the encoding


def through(value: Any) -> Any:
    def refuse(*_: Any) -> Any:
        raise AssertionError("not plain")

    return Decoder(refuse).decode(json.loads(json.dumps(Encoder(refuse).encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, -1, 2**53, -(2**64), 10**3000, 0.1, -0.0, float("inf"), float("-inf"), 1e308, 5e-324,
        1 + 2j, complex("inf"), "", "a\n\0é😀", "\ud800", "\ud83d\ude00", b"", b"\xff\0", bytearray(b"ab"),
        [], [1, [2.0, "3"]], (), (1,), ((),), set(), {1, "a", (2, 3)}, frozenset({1, frozenset()}), {}, {1: 2, "1": 3},
        {(1, 2): {"a": [None]}}, range(3), range(9, 0, -2), slice(1, None), Ellipsis, int, dict, type(None),
        deque([1, 2], maxlen=3), Fraction(1, 3), Decimal("1.10"), date(2020, 2, 29), datetime(2020, 1, 2, 3, 4, 5, 6),
        timedelta(days=-1, microseconds=3),
    ],
    ids=lambda value: type(value).__name__,  # a set's text differs between processes, and the workers must agree
)  # fmt: skip
def test_plain_values_come_back(value: Any):
    back = through(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value) if isinstance(value, float | complex) else back == value


@pytest.mark.parametrize(
    "value",
    [OrderedDict(a=1, b=2), defaultdict(list, {1: [2]}), Counter("aab"), {1: 2}.keys(), {1: 2}.items(), Counter, date,
     SimpleNamespace(a=[1]), MappingProxyType({1: 2}), time(3, 4), array("d", [0.5]), UUID(int=7), KeyError, Counter],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)  # fmt: skip
def test_classes_of_the_library_survive(value: Any):
    back = through(value)
    assert type(back) is type(value) and back == value
    assert getattr(back, "default_factory", None) is getattr(value, "default_factory", None)


@pytest.mark.parametrize(
    ("value", "plain"), [(np.int64(3), 3), (np.float64(0.5), 0.5), (np.bool_(True), True)], ids=str
)
def test_scalars_of_numpy_travel_as_the_plain_kind(value: Any, plain: Any):
    back = through(value)
    assert type(back) is type(plain) and back == plain


def test_only_classes_of_the_library_are_named():
    for node in (["library", "os", "system"], ["library", "builtins", "eval"], ["library", "subprocess", "Popen"]):
        with pytest.raises(Junk):
            Decoder(lambda *_: None).decode(node)


def test_not_a_number_and_arrays():
    assert np.isnan(through(float("nan")))
    array = np.arange(6.0).reshape(2, 3)
    back = through(array)
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_sharing_and_cycles():
    inner: list[Any] = [1]
    outer = through([inner, inner, {"again": inner}])
    assert outer[0] is outer[1] is outer[2]["again"]
    inner.append(inner)
    back = through(inner)
    assert back[1] is back


@pytest.mark.parametrize(
    "node",
    [[], ["nothing"], ["ref", 0], ["ref", -1], ["known", 5], ["int", "x"], ["set", [["list", []]]], ["type", "eval"],
     ["tuple", 3], {"a": 1}, ["array", "O", [1], [None]], ["bytes", "zz"], ["range", 0, 1, 0], ["date", "never"]],
    ids=str,
)  # fmt: skip
def test_junk_is_refused(node: Any):
    with pytest.raises(Junk):
        Decoder(lambda *_: None).decode(node)


# ---- Python


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "checks", "status"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "passed"),
        ("def f(x): return x", "assert f(1) == 2", "wrong"),
        ("def f(x): return x +", "assert f(1) == 2", "compile"),
        ("def f(x): return y", "assert f(1) == 2", "error"),
        ("def f(x): return [0] * 10 ** 9", "assert f(1) == 2", "memory"),
        ("def g(x): return x + 1", "assert f(1) == 2", "error"),
        ("import nothing_of_the_kind", "assert f(1) == 2", "error"),
        ("def f(x): raise KeyError(x)", "try:\n    f(1)\n    assert False\nexcept KeyError:\n    pass", "passed"),
        ("class E(ValueError): pass\ndef f(x): raise E(x)",
         "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass", "passed"),
        ("def f(x): assert x == 2", "f(1)", "wrong"),
        ("def f(x):\n    print(x)\n    return x", "assert f(1) == 1", "passed"),
        ("def f(*a, **k): return a, k", "assert f(1, *[2], b=3) == ((1, 2), {'b': 3})", "passed"),
        # changes to arguments are seen, and what is the same stays the same
        ("def f(x): x.append(3); return x", "a = [1]\nb = f(a)\nassert a == [1, 3] and b is a", "passed"),
        ("def f(x): x['a'].append(1); x['b'] = x['a']", "d = {'a': []}\ni = d['a']\nf(d)\nassert d['b'] is i == [1]",
         "passed"),
        ("def f(x): x.clear()", "s = {1, 2}\nf(s)\nassert s == set()", "passed"),
        ("def f(x, y): x.append(y); y.append(1)", "a, b = [], []\nf(a, b)\nassert a[0] is b and b == [1]", "passed"),
        # objects of the program
        ("class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
         "def f(ps): return sum(p.a * p.b for p in ps)",
         "p = Pair(1, 2)\np.a = 5\nassert f([p, Pair(3, 4)]) == 22 and isinstance(p, Pair) and not isinstance(1, Pair)",
         "passed"),
        ("class N:\n    def __init__(self, v): self.v, self.next = v, None",
         "a, b = N(1), N(2)\na.next = b\nassert a.next is b and a.next.v == 2 and b.next is None", "passed"),
        ("class S:\n    def __init__(self): self.items = {}\n    def __len__(self): return 7\n"
         "    def __getitem__(self, k): return k * 2\n    def __setitem__(self, k, v): self.items[k] = v\n"
         "    def __str__(self): return 'text'\n    def __eq__(self, other): return True\n"
         "    __hash__ = object.__hash__",
         "s = S()\ns['a'] = 1\nassert len(s) == 7 and s[2] == 4 and s.items == {'a': 1} and str(s) == 'text'\n"
         "assert s == S() and s != 1 and f'{s}' == 'text' and s in {s}", "passed"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and next(f(1)) == 0", "passed"),
        ("def f(xs): return map(str, xs)", "assert list(f([1, 2])) == ['1', '2']", "passed"),
        ("def f(xs): return zip(xs, xs)", "assert list(f([1, 2])) == [(1, 1), (2, 2)]", "passed"),
        ("def f(n): return lambda x: x + n", "assert f(1)(2) == 3", "passed"),
        # objects of the tests
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]", "passed"),
        ("def f(xs): return sum(xs)", "assert f(x for x in [1, 2]) == 3 and f(iter([4])) == 4", "passed"),
        ("def f(g):\n    try: g()\n    except ValueError: return 1", "def g():\n    raise ValueError\nassert f(g) == 1",
         "passed"),
        # names
        ("def sum(a, b): return a * b", "assert sum(2, 5) == 10", "passed"),
        ("import math\nN = 3\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(4), 2) and N == 3", "passed"),
        ("import numpy as np\ndef f(x): return np.cumsum(x)", "import numpy as np\nassert (f([1, 2]) == [1, 3]).all()",
         "passed"),
        ("import sys\nsys.setrecursionlimit(9000)\ndef f(n): return n and 1 + f(n - 1)", "assert f(5000) == 5000",
         "passed"),
        ("def f(): return 10 ** 9999", "assert len(str(f())) == 10000", "passed"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(1)",
         "assert f().x == 1 and f() == P(1)", "passed"),
        ("if __name__ == '__main__':\n    raise SystemExit(0)\ndef f(): return input()",
         "try:\n    f()\nexcept EOFError:\n    pass", "passed"),
    ],
)  # fmt: skip
def test_python(judge: Judge, source: str, checks: str, status: str):
    verdict = python(judge, source, checks)
    assert verdict.status == status, verdict
    assert verdict.passed == (status == "passed")


@needs_sandbox
def test_python_entry_and_context(judge: Judge):
    context = "def double(x): return 2 * x\ndef f(x):\n    '''Twice.'''\n"
    checks = "def check(candidate):\n    assert candidate(2) == double(2)\n\ncheck(f)"
    right = "def double(x): return 0\ndef f(x): return x + x"
    assert python(judge, right, checks, context, "f").passed
    assert python(judge, "def f(x): return x", checks, context, "f").detail == "assert candidate(2) == double(2)"
    assert python(judge, "def g(x): return x", checks, context, "f").status == "missing"


@needs_sandbox
@pytest.mark.parametrize(("context", "checks"), [("def f(:", "f(1)"), ("", "assert"), ("1 / 0", "f(1)")])
def test_broken_tests_are_not_the_programs_fault(judge: Judge, context: str, checks: str):
    with pytest.raises(SubmodelError, match="the tests of this program do not run"):
        python(judge, "def f(x): return x", checks, context)


@needs_sandbox
def test_timeout_ends_both_processes():
    slow = Judge(open_sandbox(), Limits(seconds=1))
    verdict = python(slow, "def f():\n    while True: pass", "f()")
    assert verdict.status == "timeout" and verdict.seconds < 5
    busy = Judge(open_sandbox(), Limits(seconds=20, cpu_seconds=1))
    verdict = python(busy, "def f():\n    while True: pass", "f()")
    assert (verdict.status, verdict.detail) == ("timeout", "over the limit on processor time")


@needs_sandbox
def test_many_at_once(judge: Judge):
    verdicts: list[tuple[int, Verdict]] = []

    def one(at: int) -> None:
        verdicts.append((at, python(judge, f"def f(): return {at}", f"assert f() == {at // 2 * 2}")))

    threads = [threading.Thread(target=one, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {at: verdict.passed for at, verdict in verdicts} == {at: at % 2 == 0 for at in range(8)}


# ---- the other languages


@needs_sandbox
@pytest.mark.parametrize("language", list(WHOLE))
@pytest.mark.parametrize(("code", "status"), [("1", "passed"), ("2", "wrong"), ("(((", "compile")])
def test_whole_programs(judge: Judge, language: str, code: str, status: str):
    need(language)
    verdict = judge.judge(Program(language, WHOLE[language].format(code)))
    assert verdict.status == status, verdict
    assert "\n" not in verdict.detail


@needs_sandbox
@pytest.mark.parametrize(
    ("language", "source", "status"),
    [
        ("cpp", "#include <stdexcept>\nint main() { throw std::runtime_error(\"x\"); }", "signal"),
        ("cpp", "int main() { return 3; }", "error"),
        ("cpp", "bool f() {}\nint main() { return f() ? 0 : 1; }", "signal"),  # else left to chance
        ("cpp", "#include <iostream>\nint main() { std::cout << \"no line end\"; }", "passed"),
        ("cpp", "int main() { for (;;); }", "timeout"),
        ("java", "public class Main { public static void main(String[] args) { int[] a = {}; a[0] = 1; } }", "error"),
        ("java", "class A {}\npublic class Main { public static void main(String[] args) { System.out.print(1); } }",
         "passed"),
        ("java", "class A {}", "compile"),
        ("javascript", "console.assert(1 === 2, 'they differ')", "wrong"),
        ("javascript", "throw new TypeError('x')", "error"),
        ("javascript", "Promise.reject(new Error('x'))", "error"),
        ("javascript", "setTimeout(() => { throw new Error('x') }, 50)", "error"),
        ("javascript", "setTimeout(() => {}, 50); process.stdout.write('no line end')", "passed"),
    ],
)  # fmt: skip
def test_endings_of_whole_programs(language: str, source: str, status: str):
    need(language)
    verdict = Judge(open_sandbox(), Limits(seconds=3)).judge(Program(language, source))
    assert verdict.status == status, verdict


def test_java_classes():
    assert classes("class A { class B {} }\npublic class Main { void main() {} }") == ("Main", "Main")
    noise = "class Solution { // class X {\n String s = \"}{\"; char c = '{'; /* } */ }"
    assert classes(noise + "public class Main { void main() {} }") == ("Main", "Main")
    assert classes("final class Problem {\n public static void main(String[] args) {} }") == ("Problem", None)
    assert classes("class A {}") == (None, None)


@needs_sandbox
def test_equal_programs_compile_once(tmp_path: Path):
    need("cpp")
    judge = Judge(open_sandbox(), Limits(seconds=10), cache=tmp_path / "cache")
    program = Program("cpp", WHOLE["cpp"].format("1"))
    verdicts: list[Verdict] = []
    threads = [threading.Thread(target=lambda: verdicts.append(judge.judge(program))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.passed for verdict in verdicts] == [True] * 3
    assert judge.cache.compiled == 2  # the program and the harness
    again = Judge(open_sandbox(), Limits(seconds=10), cache=tmp_path / "cache")
    assert again.judge(program).passed and again.cache.compiled == 0
    broken = Program("cpp", "int main() {")
    assert [again.judge(broken).status for _ in range(2)] == ["compile"] * 2 and again.cache.compiled == 1


def test_languages(monkeypatch: pytest.MonkeyPatch):
    assert list(LANGUAGES) == ["python", "java", "cpp", "javascript"]
    assert missing_toolchain("python") is None
    with pytest.raises(SubmodelError, match="unknown language 'pyhton'.*python"):
        missing_toolchain("pyhton")
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing_toolchain("java") == "java: no javac or java on PATH (Debian: default-jdk-headless)"
    monkeypatch.setattr(package.javascript, "missing", lambda: "javascript: no node on PATH (Debian: nodejs)")
    with pytest.raises(SubmodelError, match="no node on PATH"):
        Judge(None, Limits()).judge(Program("javascript", ""))  # pyright: ignore[reportArgumentType]


def test_harness_imports_nothing_of_ours():
    for file in Path(package.__file__).with_name("harness").glob("python_*.py"):
        names = [line.split()[1] for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert all(name.split(".")[0] in sys.stdlib_module_names or name.startswith("python_") for name in names)
