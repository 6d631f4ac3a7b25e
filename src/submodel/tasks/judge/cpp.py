"""Judge a C++ program: compile it with its main renamed, link it behind our harness, run that."""

import shutil
from pathlib import Path

from submodel.tasks.judge.cache import CompileCache
from submodel.tasks.judge.one_time_number import CompileError, compile_with, run_with_number
from submodel.tasks.judge.program import Program, Verdict, verdict
from submodel.tasks.sandbox import Limits, Sandbox
from submodel.tasks.sandbox.visible import tool_paths

_HARNESS = Path(__file__).with_name("harness") / "harness.cpp"
# a function that ends without its return value traps: what it would return is left to chance
_FLAGS = "-std=c++17 -O0 -w -fsanitize=return -fsanitize-undefined-trap-on-error"
_OBJECT = f"cat > harness.cpp; g++ {_FLAGS} -O1 -c harness.cpp -o harness.o; cat harness.o"
# no symbol of the program but its main is seen by the harness or the C library: it cannot stand in for theirs
_LINK = f"""cat > program.cpp
g++ {_FLAGS} -c program.cpp -o program.o
objcopy --redefine-sym main=submodel_program_main program.o
objcopy --keep-global-symbol=submodel_program_main program.o
g++ HARNESS program.o -o program LIBRARIES
cat program"""


def missing() -> str | None:
    """Which of the tools is not here, in one line with what to install."""
    tools = [tool for tool in ("g++", "objcopy") if shutil.which(tool) is None]
    return f"cpp: no {' or '.join(tools)} on PATH (Debian: g++)" if tools else None


def judge(sandbox: Sandbox, program: Program, limits: Limits, cache: CompileCache) -> Verdict:
    """Compile and run one program."""
    tools = [path for tool in ("g++", "objcopy") for path in tool_paths(Path(shutil.which(tool) or tool))]
    harness_text = _HARNESS.read_bytes()
    harness = cache.get("harness", harness_text, ".o", lambda: compile_with(sandbox, _OBJECT, tools, harness_text))
    source = program.source.encode("utf-8", "replace")
    libraries = "-lcrypto" if "<openssl/" in program.source else ""
    script = _LINK.replace("HARNESS", str(harness)).replace("LIBRARIES", libraries)
    what = f"{_LINK} {libraries} {harness.name}"
    try:
        binary = cache.get(what, source, "", lambda: compile_with(sandbox, script, [*tools, harness], source))
    except CompileError as error:
        return verdict("compile", str(error), 0.0)
    return run_with_number(sandbox, [str(binary)], [binary], limits)
