"""llama.cpp in a process of its own, run by its file with any Python that has llama-cpp-python: nothing of this package
is imported. It answers the requests that `child` sends, and writes GGUF files in other types.
"""

import ctypes
import json
import os
import sys
import time

import llama_cpp as lib
import numpy as np

_CHUNK = 128  # tokens whose logits are there at once


class Model:
    """A GGUF file in memory, with one sequence of at most `context` tokens."""

    def __init__(self, file, threads, context):
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(file.encode(), lib.llama_model_default_params())
        if not self.model:
            raise ValueError(f"{file}: llama.cpp does not load it")
        vocabulary = lib.llama_model_get_vocab(self.model)
        self.vocabulary = lib.llama_vocab_n_tokens(vocabulary)
        self.threads = threads
        self.context = self.open(context)

    def open(self, tokens):
        settings = lib.llama_context_default_params()
        settings.n_ctx = tokens
        settings.n_batch = tokens
        settings.n_threads = settings.n_threads_batch = self.threads
        return lib.llama_init_from_model(self.model, settings)

    def run(self, tokens):
        """Decode tokens after those that are there; the best next one."""
        given = (lib.llama_token * len(tokens))(*tokens)
        if lib.llama_decode(self.context, lib.llama_batch_get_one(given, len(tokens))):
            raise RuntimeError("llama_decode failed")
        logits = lib.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax())

    def losses(self, windows):
        """Nats of each window's tokens after its first, summed."""
        context = self.open(len(windows[0]))
        batch = lib.llama_batch_init(_CHUNK, 0, 1)
        found = []
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
                logits = np.ctypeslib.as_array(lib.llama_get_logits(context), (len(part), self.vocabulary))
                most = logits.max(axis=1)
                spread = np.log(np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)) + most
                total += float((spread - logits[np.arange(len(part)), ids[at + 1 : at + 1 + len(part)]]).sum())
            found.append(total)
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        return found


def resident():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def quantise(source, out, form):
    """Write a BF16 file in another type, as llama.cpp's own program does."""
    settings = lib.llama_model_quantize_default_params()
    settings.ftype = {"Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0}[form]
    settings.nthread = 0
    if lib.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(settings)):
        raise RuntimeError(f"{source}: llama.cpp cannot write it as {form}")


def main():
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    before = resident()
    model, about = None, {}
    for line in sys.stdin:
        request = json.loads(line)
        what, answer = request["do"], {}
        if what == "version":
            answer = {"version": lib.__version__}
        elif what == "quantise":
            quantise(request["source"], request["out"], request["form"])
        elif what == "start":
            about = request
            file = about["contender"]["reference"]
            model = Model(file, about["threads"], about["prompt_tokens"] + about["new_tokens"])
            ids = np.random.default_rng(0).integers(0, model.vocabulary, about["prompt_tokens"]).tolist()
        elif what == "measure":
            lib.llama_memory_clear(lib.llama_get_memory(model.context), True)
            start = time.perf_counter()
            token = model.run(ids)
            took, steps = time.perf_counter() - start, []
            for _ in range(about["new_tokens"]):
                start = time.perf_counter()
                token = model.run([token])
                steps.append(time.perf_counter() - start)
            answer = {"prefill": took, "steps": steps}
        elif what == "size":
            answer = {"weight_bytes": os.path.getsize(file), "resident_bytes": resident() - before}
        elif what == "losses":
            answer = {"losses": model.losses(request["windows"])}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
