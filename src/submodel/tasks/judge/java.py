"""Judge a Java program: compile it, pack its classes, run its main under our harness with assertions on."""

import io
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

from submodel.tasks.judge.cache import CompileCache
from submodel.tasks.judge.one_time_number import CompileError, compile_with, run_with_number, with_processes
from submodel.tasks.judge.program import Program, Verdict, verdict
from submodel.tasks.sandbox import Limits, Sandbox
from submodel.tasks.sandbox.visible import tool_paths

_HARNESS = Path(__file__).with_name("harness") / "SubmodelHarness.java"
_TUPLES = Path("/usr/share/java/javatuples.jar")  # MultiPL-E's tests use it; Debian: libjavatuples-java
_QUICK = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ActiveProcessorCount=2 -Xshare:auto"  # starts fast, little memory
)
_COMPILE = """mkdir classes
cat > FILE
JAVAC -encoding UTF8 -nowarn OPTIONS -d classes -cp CLASSPATH FILE 1>&2
tar -cf - -C classes ."""
_THREADS = 64  # of the virtual machine itself
_NOISE = re.compile(r'//[^\n]*|/\*.*?\*/|"""(?:\\.|.)*?"""|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
_TOKEN = re.compile(
    r"(?P<open>\{)|(?P<close>\})|(?P<public>\bpublic\s+)?(?:\b(?:final|abstract|strictfp)\s+)*"
    r"\b(?:class|record|enum|interface)\s+(?P<name>\w+)|(?P<main>\bvoid\s+main\s*\()"
)


def missing() -> str | None:
    """Which of the tools is not here, in one line with what to install."""
    tools = [tool for tool in ("javac", "java") if shutil.which(tool) is None]
    return f"java: no {' or '.join(tools)} on PATH (Debian: default-jdk-headless)" if tools else None


def judge(sandbox: Sandbox, program: Program, limits: Limits, cache: CompileCache) -> Verdict:
    """Compile and run one program."""
    tools = [path for tool in ("javac", "java") for path in tool_paths(Path(shutil.which(tool) or tool))]
    name, public = classes(program.source)
    if name is None:
        return verdict("compile", "no class with a main method", 0.0)
    file = f"{public or name}.java"
    try:
        harness = _compile(sandbox, cache, tools, "SubmodelHarness.java", _HARNESS.read_bytes())
        jar = _compile(sandbox, cache, tools, file, program.source.encode("utf-8", "replace"))
    except CompileError as error:
        return verdict("compile", str(error), 0.0)
    heap = max(limits.memory_bytes - (256 << 20), limits.memory_bytes // 2) >> 20
    path = ":".join(str(part) for part in (harness, jar, *_tuples()))
    argv = [shutil.which("java") or "java", "-ea", *_QUICK.split(), f"-Xmx{heap}m", "-XX:-UsePerfData"]
    argv += ["-cp", path, "SubmodelHarness", name]
    return run_with_number(sandbox, argv, [*tools, harness, jar], with_processes(limits, _THREADS))


def classes(source: str) -> tuple[str | None, str | None]:
    """Top-level classes: the one with a main method (the last of several), and the public one. None where none is."""
    depth, current, main, public = 0, None, None, None
    for token in _TOKEN.finditer(_NOISE.sub(" ", source)):
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
        elif token["main"]:
            main = current
        elif depth == 0:
            current = token["name"]
            public = current if token["public"] else public
    return main, public


def _tuples() -> list[Path]:
    return [_TUPLES] if _TUPLES.exists() else []


def _compile(sandbox: Sandbox, cache: CompileCache, tools: list[Path], file: str, source: bytes) -> Path:
    options = " ".join(f"-J{option}" for option in _QUICK.split())
    words = {"FILE": file, "JAVAC": shutil.which("javac") or "javac", "OPTIONS": options}
    words["CLASSPATH"] = ":".join(str(path) for path in _tuples()) or "."
    script = _COMPILE
    for word, value in words.items():
        script = script.replace(word, value)
    return cache.get(script, source, ".jar", lambda: _jar(compile_with(sandbox, script, tools, source)))


def _jar(tar: bytes) -> bytes:
    """The class files of a tar as a jar, which is a zip. They stay packed: nothing is written by their own names."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as classes, zipfile.ZipFile(packed, "w") as jar:
        for member in classes:
            file = classes.extractfile(member) if member.isfile() else None
            if file is not None:
                jar.writestr(member.name.removeprefix("./"), file.read())
    return packed.getvalue()
