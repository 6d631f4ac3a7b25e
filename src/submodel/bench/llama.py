"""llama.cpp in a process of its own, run by its file with any Python that has llama-cpp-python: nothing of this package
is imported. It answers the requests that `child` sends, and writes GGUF files in other types.
"""

import ctypes
import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np

lib: Any = importlib.import_module("llama_cpp")
_CHUNK = 128  # tokens whose logits are there at once


class Worker:
    """Answers requests: a method each, whose arguments are the request's."""

    def __init__(self) -> None:
        self._before = _resident()

    def version(self) -> dict[str, Any]:
        return {"version": lib.__version__}

    def quantise(self, source: str, out: str, form: str) -> dict[str, Any]:
        """Write a BF16 file in another type, as llama.cpp's own program does."""
        settings = lib.llama_model_quantize_default_params()
        settings.ftype = {"Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0}[form]
        settings.nthread = 0
        if lib.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(settings)):
            raise RuntimeError(f"{source}: llama.cpp cannot write it as {form}")
        return {}

    def start(
        self, contender: dict[str, Any], threads: int, prompt_tokens: int, new_tokens: int, trust_remote_code: bool
    ) -> dict[str, Any]:
        """Load a file, with a cache for the prompt and the new tokens."""
        lib.llama_backend_init()
        self._file = contender["reference"]
        self._model = lib.llama_model_load_from_file(self._file.encode(), lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"{self._file}: llama.cpp does not load it")
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._threads, self._new_tokens = threads, new_tokens
        self._context = self._open(prompt_tokens + new_tokens)
        self._ids = np.random.default_rng(0).integers(0, self._vocabulary, prompt_tokens).tolist()
        return {}

    def measure(self) -> dict[str, Any]:
        """Seconds of the prompt and of each step after it."""
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        start = time.perf_counter()
        token = self._run(self._ids)
        took = time.perf_counter() - start
        steps: list[float] = []
        for _ in range(self._new_tokens):
            start = time.perf_counter()
            token = self._run([token])
            steps.append(time.perf_counter() - start)
        return {"prefill": took, "steps": steps}

    def size(self) -> dict[str, Any]:
        return {"weight_bytes": os.path.getsize(self._file), "resident_bytes": _resident() - self._before}

    def losses(self, windows: list[list[int]]) -> dict[str, Any]:
        """Nats of each window's tokens after its first, summed."""
        context = self._open(len(windows[0]))
        batch = lib.llama_batch_init(_CHUNK, 0, 1)
        sums: list[float] = []
        for ids in windows:
            lib.llama_memory_clear(lib.llama_get_memory(context), True)
            total = 0.0
            for at in range(0, len(ids) - 1, _CHUNK):
                part = ids[at : min(at + _CHUNK, len(ids) - 1)]
                batch.n_tokens = len(part)
                for i, token in enumerate(part):
                    batch.token[i], batch.pos[i], batch.logits[i] = token, at + i, 1
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                if lib.llama_decode(context, batch):
                    raise RuntimeError("llama_decode failed")
                logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(part), self._vocabulary))
                most = logits.max(axis=1)
                spread = np.log(np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)) + most
                total += float((spread - logits[np.arange(len(part)), ids[at + 1 : at + 1 + len(part)]]).sum())
            sums.append(total)
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        return {"losses": sums}

    def _open(self, tokens: int) -> Any:
        settings = lib.llama_context_default_params()
        settings.n_ctx = settings.n_batch = tokens
        settings.n_threads = settings.n_threads_batch = self._threads
        return lib.llama_init_from_model(self._model, settings)

    def _run(self, tokens: list[int]) -> int:
        """Decode tokens after those that are there; the best next one."""
        array = (lib.llama_token * len(tokens))(*tokens)
        if lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(tokens))):
            raise RuntimeError("llama_decode failed")
        logits = lib.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self._vocabulary,)).argmax())


def _resident() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=out, flush=True)


if __name__ == "__main__":
    main()
