"""Time to start: from a command to its first line or first token, beside what no such program can go below.

    python -m benchmarks.start STORE@NAME [--rounds 5] [--out FILE]

The commands take turns, so that whatever else the machine does falls on all of them alike. Wall time is what a person
waits; processor time (user and system) hardly moves while other programs run. `generate` writes one token, so that it
ends with its first. The floor of every command is `python -c pass`; of one that runs a model, `import torch`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import ROOT, show, spread, table


def _commands(model: str) -> dict[str, list[str]]:
    python, verb = [sys.executable, "-c"], [sys.executable, "-m", "submodel.cli"]
    generate = [*verb, "generate", model, "--prompt", "def ", "--max-tokens", "1"]
    return {
        "python -c pass": [*python, "pass"],
        "import torch": [*python, "import torch"],
        "import torch, transformers": [*python, "import torch, transformers"],
        "submodel --help": [*verb, "--help"],
        "submodel list": [*verb, "list", model.rpartition("@")[0]],
        "submodel info": [*verb, "info", model],
        "submodel generate": generate,
        "submodel generate --format int8": [*generate, "--format", "int8"],
    }


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds of wall and of processor time of a command. Ends the benchmark when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run the commands in turns and print the table."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", metavar="STORE@NAME")
    p.add_argument("--rounds", type=int, default=5, help="turns that are measured, after one that is not")
    p.add_argument("--out", type=Path, help="a file that the figures are appended to, a JSON line")
    args = p.parse_args()
    commands = _commands(args.model)
    before = os.getloadavg()[0]
    for command in commands.values():  # files come into the system's cache, modules are compiled
        _run(command)
    seconds = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            seconds[name].append(_run(command))
    figures = {
        name: {"wall_s": spread([wall for wall, _ in runs]), "processor_s": spread([cpu for _, cpu in runs])}
        for name, runs in seconds.items()
    }
    print(f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after; {args.rounds} rounds; median (min..max)")
    rows = [[name, show(figure["wall_s"]), show(figure["processor_s"])] for name, figure in figures.items()]
    print(table([["command", "wall, s", "processor, s"], *rows]))
    if args.out:
        with open(args.out, "a") as f:
            f.write(json.dumps({"model": args.model, "rounds": args.rounds, "seconds": figures}) + "\n")


if __name__ == "__main__":
    main()
