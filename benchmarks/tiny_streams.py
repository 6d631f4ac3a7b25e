"""Tiny streams, every choice of which is counted: the load under which an answer would be lost, doubled, mixed or cut.

Requests of one to eight tokens, up to eight choices of one or two prompts, sampled by seed, so that every choice of a
request is another text and is known from asking once without a stream. Some readers leave, some are slow, some send
bodies that are refused.
"""

import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx2

PROMPTS = ("hi", "def f(x):", "class A {", "12 + 30 =", "a longer prompt, " * 20)
KINDS = {"read": 90, "leave": 10, "slow": 4, "refused": 1}
Answers = list[tuple[str, str]]
"""Text and finish reason of every choice."""


@dataclass(frozen=True)
class Case:
    """A request, and what it is answered."""

    body: dict[str, Any]
    answers: Answers


def cases(url: str, models: Sequence[str], count: int = 60) -> list[Case]:
    """Random requests, asked one at a time and not streamed."""
    made = []
    with httpx2.Client(base_url=f"{url}/v1", timeout=600) as http:
        for index in range(count):
            rng = random.Random(index)
            prompts = rng.sample(PROMPTS, rng.choice([1, 1, 1, 2]))
            body = {"model": rng.choice(models), "prompt": prompts, "n": rng.choice([1, 1, 2, 4, 8]), "seed": index}
            body |= {"max_tokens": rng.randint(1, 8), "temperature": rng.choice([0, 1])}
            choices = http.post("/completions", json=body).json()["choices"]
            assert [choice["index"] for choice in choices] == list(range(len(prompts) * body["n"]))
            made.append(Case(body, [(choice["text"], choice["finish_reason"]) for choice in choices]))
    return made


class StreamReader:
    """Reads one stream, and says what is wrong with it."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = defaultdict(str)
        self.finishes: dict[int, list[str]] = defaultdict(list)
        self.ends = 0
        self.faults: list[str] = []

    def take(self, line: str) -> None:
        """A line of the answer."""
        if not line:
            return
        if line == "data: [DONE]":
            self.ends += 1
            return
        document = json.loads(line.removeprefix("data: "))
        if "error" in document:
            self.faults.append(document["error"]["message"])
            return
        for choice in document["choices"]:
            if self.finishes[choice["index"]]:
                self.faults.append(f"choice {choice['index']} goes on after its end")
            self.texts[choice["index"]] += choice["text"]
            if choice["finish_reason"]:
                self.finishes[choice["index"]].append(choice["finish_reason"])

    def check(self, answers: Answers, *, complete: bool) -> list[str]:
        """What is wrong: with all choices of a stream that was read to its end, else with what came."""
        for index, text in self.texts.items():
            if index >= len(answers) or not answers[index][0].startswith(text):
                self.faults.append(f"choice {index} has the text {text!r}")
        if complete:
            got = [(self.texts[index], *self.finishes[index]) for index in range(len(answers))]
            if got != answers or self.ends != 1:
                self.faults.append(f"{got} and {self.ends} ends instead of {answers}")
        return self.faults


def _read(http: httpx2.Client, case: Case, most: int, pause_s: float) -> list[str]:
    reader, lines = StreamReader(), 0
    with http.stream("POST", "/completions", json={**case.body, "stream": True}) as response:
        if response.status_code != 200:
            return [f"status {response.status_code}"]
        for line in response.iter_lines():
            lines += 1
            if lines > most:
                break
            reader.take(line)
            time.sleep(pause_s)
    return reader.check(case.answers, complete=lines <= most)


def _refused(http: httpx2.Client, rng: random.Random) -> list[str]:
    """A body that is too long for the model, or for the server: refused in words, whatever is under way."""
    words, status = rng.choice([(150_000, 400), (400_000, 413)])
    response = http.post("/completions", json={"model": "base", "prompt": "word " * words})
    fine = response.status_code == status and response.json()["error"]["message"]
    return [] if fine else [f"refused with {response.status_code}"]


def run(url: str, known: list[Case], streams: int, clients: int) -> tuple[Counter[str], list[str]]:
    """So many streams from so many clients at once: how many of each kind, and what was wrong."""
    waiting, lock = iter(range(streams)), threading.Lock()
    kinds: Counter[str] = Counter()
    faults: list[str] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        with httpx2.Client(base_url=f"{url}/v1", timeout=600) as http:
            while True:
                with lock:
                    if next(waiting, None) is None:
                        return
                [kind] = rng.choices(list(KINDS), list(KINDS.values()))
                most = rng.randrange(4) if kind == "leave" else 1 << 30
                try:
                    if kind == "refused":
                        wrong = _refused(http, rng)
                    else:
                        wrong = _read(http, rng.choice(known), most, 0.02 if kind == "slow" else 0)
                except httpx2.HTTPError as error:
                    wrong = [f"{kind}: {type(error).__name__} {error}"]
                with lock:
                    kinds[kind] += 1
                    faults.extend(wrong)

    with ThreadPoolExecutor(clients) as pool:
        for one in [pool.submit(client, seed) for seed in range(clients)]:
            one.result()
    return kinds, faults
