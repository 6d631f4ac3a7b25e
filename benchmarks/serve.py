"""A server under load, on this machine only: right answers, flat memory, no failures, and the time that tokens take.

    python -m benchmarks.serve STORE [--clients 64] [--seconds 300] [--streams 10000] [--format bf16] [--memory 4G]

Starts `submodel serve` on a free loopback port, asks each greedy question once by itself, then lets clients ask them
at random, with cancelled streams, malformed and oversized bodies and readers that take their time between them. Every
finished answer must equal the one that was given alone, no status may be 500, and the server's resident memory after
half of the time must be what it is at the end. Then come tiny streams (see `tiny_streams`): no choice of theirs may be
missing, and memory must stay what it was after the first tenth. Last, one client measures first-token and per-token
latency of each model in turn, sub-models and the dense base interleaved; the first token of a long prompt also where
only its last line is new.
"""

import argparse
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import psutil

from benchmarks import tiny_streams

QUESTIONS = (
    "def fibonacci(n):",
    "public static int max(int[] values) {",
    "The sum of 17 and 25 is",
    "Once upon a time",
    "#include <vector>\nstd::vector<int> sorted(",
    "x = [1, 2, 3]\nprint(" * 12,
    "Translate to French: The house is small.",
)
MALFORMED = (
    b"",
    b"{",
    b"[" * 20_000,
    b"null",
    b'{"prompt": 5}',
    b"\xff",
    b'{"prompt": "a", "n": -1}',
    b'{"model": "x"}',
)
FILE = "".join(f"def f{i}(x, y={i}):\n    return x * {i} + y\n\n\n" for i in range(24))
ALLOWED = {200, 400, 404, 408, 413, 415, 429, 503}
MOST_CLIENTS, MOST_SECONDS = 256, 1800


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, status: int, wrong: str | None = None) -> None:
        with self.lock:
            self.kinds[kind] += 1
            self.statuses[status] += 1
            if wrong:
                self.wrong.append(wrong)


@dataclass(frozen=True)
class Case:
    """One greedy question to one model."""

    model: str
    prompt: str
    max_tokens: int

    @property
    def body(self) -> dict[str, Any]:
        return {"model": self.model, "prompt": self.prompt, "max_tokens": self.max_tokens, "temperature": 0}


Expected = dict[Case, str]


def ask(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    case = rng.choice(list(expected))
    response = http.post("/v1/completions", json=case.body)
    text = response.json()["choices"][0]["text"] if response.status_code == 200 else expected[case]
    tally.note("whole", response.status_code, None if text == expected[case] else f"{case}: {text!r}")


def read_stream(
    http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected, most: int = 1 << 30, pause_s: float = 0.0
) -> None:
    case = rng.choice(list(expected))
    text, ended = "", False
    with http.stream("POST", "/v1/completions", json={**case.body, "stream": True}) as response:
        status = response.status_code
        for count, line in enumerate(response.iter_lines()):
            if count >= most:
                break
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: ") and status == 200:
                document = json.loads(line.removeprefix("data: "))
                if "error" in document:
                    text = expected[case]
                    continue
                text += document["choices"][0]["text"]
            time.sleep(pause_s)
    right = text == expected[case] if ended else expected[case].startswith(text)
    kind = "slow" if pause_s else "stream" if ended else "cancelled"
    tally.note(kind, status, None if right or status != 200 else f"{case} streamed: {text!r}")


def cancel(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    read_stream(http, tally, rng, expected, most=rng.randrange(6))


def slow(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    read_stream(http, tally, rng, expected, pause_s=rng.choice([0.05, 0.2]))


def impatient(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    case = rng.choice(list(expected))
    try:
        status = http.post("/v1/completions", json=case.body, timeout=rng.uniform(0.01, 0.5)).status_code
    except httpx2.TimeoutException:
        status = 200
    tally.note("left", status)


def malformed(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    path = rng.choice(["/v1/completions", "/v1/chat/completions", "/v1/route"])
    headers = {"Content-Type": "application/json"}
    tally.note("malformed", http.post(path, content=rng.choice(MALFORMED), headers=headers).status_code)


def oversized(http: httpx2.Client, tally: Tally, rng: random.Random, expected: Expected) -> None:
    body = {"model": rng.choice(list(expected)).model, "prompt": "word " * rng.choice([20_000, 400_000])}
    tally.note("oversized", http.post("/v1/completions", json=body).status_code)


ACTIONS: dict[Callable[[httpx2.Client, Tally, random.Random, Expected], None], int] = {
    ask: 8,
    read_stream: 8,
    cancel: 4,
    impatient: 3,
    slow: 2,
    malformed: 2,
    oversized: 1,
}


def client(url: str, seed: int, until: float, tally: Tally, expected: Expected) -> None:
    rng = random.Random(seed)
    with httpx2.Client(base_url=url, timeout=600) as http:
        while time.monotonic() < until:
            [action] = rng.choices(list(ACTIONS), list(ACTIONS.values()))
            try:
                action(http, tally, rng, expected)
            except httpx2.HTTPError as error:
                tally.note(f"broken: {type(error).__name__}", 0)


def latency(http: httpx2.Client, model: str, prompt: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first token, and between tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "logprobs": 0}
    times = [time.perf_counter()]
    with http.stream("POST", "/v1/completions", json=body) as response:
        for line in response.iter_lines():
            if line.startswith('data: {"id"'):
                times.append(time.perf_counter())
    return times[1] - times[0], (times[-1] - times[1]) / max(1, len(times) - 2)


def count_streams(url: str, models: list[str], streams: int, clients: int, process: psutil.Process) -> list[str]:
    """Tiny streams in ten parts, and what was wrong with them."""
    if not streams:
        return []
    known = tiny_streams.cases(url, models)
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    memory: list[int] = []
    began = time.monotonic()
    for part in range(10):
        counted, wrong = tiny_streams.run(url, known, (streams + part) // 10, clients)
        kinds += counted
        faults += wrong
        memory.append(process.memory_info().rss)
    rate = kinds.total() / (time.monotonic() - began)
    print(f"{kinds.total()} tiny streams, {rate:.0f} a second: {dict(kinds)}; lost or wrong: {len(faults)}")
    print(f"resident MB {[round(m / 1e6) for m in memory]}")
    return faults[:5] + (["memory grows over tiny streams"] if max(memory[1:]) > 1.05 * memory[0] else [])


def start(args: argparse.Namespace) -> tuple[subprocess.Popen[str], str, list[str]]:
    command = [
        sys.executable,
        "-m",
        "submodel.cli",
        "serve",
        args.store,
        "--port",
        "0",
        "--json",
        "--format",
        args.format,
    ]
    command += ["--memory", args.memory] if args.memory else []
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit("the server did not start")
    about = json.loads(line)
    return server, about["url"], about["models"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--streams", type=int, default=10_000, help="tiny ones")
    parser.add_argument("--format", default="bf16")
    parser.add_argument("--memory")
    parser.add_argument("--rounds", type=int, default=5, help="of the latency measurement")
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    args = parser.parse_args()
    clients, seconds = min(args.clients, MOST_CLIENTS), min(args.seconds, MOST_SECONDS)
    server, url, models = start(args)
    failures = []
    try:
        process = psutil.Process(server.pid)
        with httpx2.Client(base_url=url, timeout=600) as http:
            rng = random.Random(0)
            cases = [Case(m, q, rng.randint(4, args.tokens)) for m in models for q in QUESTIONS]
            expected = {c: http.post("/v1/completions", json=c.body).json()["choices"][0]["text"] for c in cases}
            again = {c: http.post("/v1/completions", json=c.body).json()["choices"][0]["text"] for c in cases[::5]}
            failures += [f"not repeatable alone: {c}" for c in again if again[c] != expected[c]]
        tally, began = Tally(), time.monotonic()
        threads = [
            threading.Thread(target=client, args=(url, seed, began + seconds, tally, expected))
            for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        stuck = [socket.create_connection((re.sub(r"http://|:\d+$", "", url), int(url.rpartition(":")[2])))]
        stuck[0].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: loc")  # says no more, and is not to matter
        memory = []
        while time.monotonic() < began + seconds:
            time.sleep(min(5, seconds / 10))
            memory.append(process.memory_info().rss)
        for thread in threads:
            thread.join()
        with httpx2.Client(base_url=url, timeout=600) as http:
            for _ in range(300):
                page = http.get("/metrics").text
                if "submodel_requests 0.0" in page:
                    break
                time.sleep(0.1)
            else:
                failures.append("requests go on that nobody waits for")
            half = memory[len(memory) // 2 :]
            grown = max(half[len(half) // 2 :]) / max(half[: max(1, len(half) // 2)])
            failures += [f"statuses {s}" for s in tally.statuses if s not in ALLOWED]
            failures += tally.wrong[:5] + (["memory grows"] if grown > 1.05 else [])
            print(f"{clients} clients, {seconds} s: {dict(tally.kinds)}; statuses {dict(tally.statuses)}")
            resident = [round(m / 1e6) for m in memory[:: len(memory) // 8 or 1]]
            print(f"wrong answers: {len(tally.wrong)}; resident MB {resident}")
            failures += count_streams(url, models, args.streams, clients, process)
            found: dict[str, list[tuple[float, ...]]] = {model: [] for model in models}
            for turn in range(args.rounds + 1):
                for model in models:
                    file = f"# {turn}\n{FILE}"  # new from its first token on
                    first, each = latency(http, model, file, args.tokens)
                    typed, _ = latency(http, model, f"{file}def g(", 1)
                    found[model].append((first, typed, each))
            for model, times in found.items():
                first, typed, each = (1000 * statistics.median(t[i] for t in times[1:]) for i in range(3))
                print(f"{model}: first token {first:.0f} ms, of a known beginning {typed:.0f}, then {each:.1f} a token")
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            failures.append("the server did not stop")
    for failure in failures:
        print(f"FAILED: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
