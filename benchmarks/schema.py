"""Answers held to a JSON schema: how many of a model's sampled ones are valid, and what they cost beside free ones.

    python -m benchmarks.schema STORE [--answers 200] [--model base] [--format bf16]

Starts `submodel serve` on a free loopback port. Every string of the schema has a greatest length, so that an answer
that keeps to it fits its tokens, and one that does not parse or validate counts as a failure.
"""

import argparse
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import jsonschema_rs

from benchmarks.serve import start

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "kind": {"enum": ["person", "place", "thing"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 3},
    },
    "required": ["name", "kind", "age", "tags"],
    "additionalProperties": False,
}
TOKENS = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--model", default="base")
    parser.add_argument("--format", default="bf16")
    parser.add_argument("--memory")
    args = parser.parse_args()
    server, url, _ = start(args)
    answer_format = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    try:
        with httpx2.Client(base_url=f"{url}/v1", timeout=600) as http:

            def ask(seed: int, **more: Any) -> tuple[str, int]:
                body = {"model": args.model, "prompt": "Something, as JSON: ", "max_tokens": TOKENS, "seed": seed}
                answer = http.post("/completions", json={**body, **more}).json()
                return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

            def is_valid(text: str) -> bool:
                try:
                    return jsonschema_rs.is_valid(SCHEMA, json.loads(text))
                except ValueError:
                    return False

            ask(0, response_format=answer_format)  # loads the model
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                held = list(pool.map(lambda seed: ask(seed, response_format=answer_format), range(args.answers)))
            seconds = time.monotonic() - began
            most = max(tokens for _, tokens in held)
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                free = list(pool.map(lambda seed: ask(seed, max_tokens=most), range(max(8, args.answers // 8))))
            rates = [sum(n for _, n in some) / t for some, t in ((held, seconds), (free, time.monotonic() - began))]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    valid, valid_free = (sum(is_valid(text) for text, _ in some) for some in (held, free))
    print(f"{valid} of {len(held)} answers keep to the schema, {valid_free} of {len(free)} free ones")
    print(f"tokens a second: {rates[0]:.0f} held, {rates[1]:.0f} free")
    return 0 if valid == len(held) else 1


if __name__ == "__main__":
    sys.exit(main())
