"""Build the native kernels: `python csrc/build.py [OUT.so]`, with any C++17 compiler ($CXX, c++, g++ or clang++).

Each instruction set is a file of its own with its own flags, so that one library runs on every x86-64 or every
64-bit ARM; elsewhere only the plain reference is built.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE.parent / "src" / "submodel" / "base" / "kernels.so"
COMMON = ["-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility-inlines-hidden", "-fno-math-errno"]
COMMON += ["-fno-trapping-math"]  # else gcc makes no vectors of a loop that chooses by comparing
COMMON += ["-fopenmp-simd", "-Wall"]  # vectors only, no OpenMP library
PLAIN = ["api.cpp", "engine.cpp", "pool.cpp", "reference.cpp"]
X86 = {
    "avx2.cpp": ["-mavx2", "-mfma", "-mpopcnt", "-mbmi2"],
    "fma.cpp": ["-mavx2", "-mfma"],
    "avx512.cpp": [f"-mavx512{x}" for x in ("f", "bw", "vl", "dq", "vbmi", "vbmi2", "vnni", "bf16")]
    + ["-mavx2", "-mfma", "-mpopcnt", "-Wno-uninitialized", "-Wno-maybe-uninitialized"],  # of gcc 12's own headers
    "amx.cpp": ["-mamx-tile", "-mamx-bf16"],
}
ARM = {"neon.cpp": ["-march=armv8.2-a+dotprod"]}


def compiler() -> str | None:
    """The C++ compiler to use, or None."""
    return next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)


def build(
    out: Path = LIBRARY,
    extra: tuple[str, ...] = (),
    driver: Path | None = None,
    cxx: str | None = None,
    machine: str | None = None,
) -> Path:
    """Compile and link everything into `out`: a library, or the program whose main file is `driver`.

    Another machine than this one needs its compiler: `cxx` and `machine` as platform.machine() would call it.

    Raises:
        FileNotFoundError: no compiler. subprocess.CalledProcessError: it refused.
    """
    cxx = cxx or compiler()
    machine = machine or platform.machine()
    if cxx is None:
        raise FileNotFoundError("no C++ compiler: install g++ or clang++, or name one in CXX")
    flags: dict[str, list[str]] = {name: [] for name in [*PLAIN, *([str(driver)] if driver else [])]}
    if machine in ("x86_64", "AMD64"):
        flags |= X86
    elif machine in ("aarch64", "arm64"):
        flags |= ARM
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for name, own in flags.items():
            target = f"{folder}/{Path(name).stem}.o"
            command = [cxx, *COMMON, *own, *extra, "-c", str(HERE / name), "-o", target]
            running.append((command, subprocess.Popen(command)))
        for _, process in running:  # all of them: none is left behind when one fails
            process.wait()
        for command, process in running:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
        partial = out.with_name(f".{out.name}.partial")
        objects = [f"{folder}/{Path(name).stem}.o" for name in flags]
        kind = [] if driver else ["-shared"]
        subprocess.run([cxx, *kind, "-pthread", *extra, *objects, "-o", str(partial)], check=True)
        os.replace(partial, out)
    return out


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY))
