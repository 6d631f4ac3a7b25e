"""Take a family through everything that can be done with a model, against `transformers` in float32.

Tokens are greedy. A packed format rounds, so its logits are compared in norm, and each token that it writes must be
one that the float32 model likes almost as much as its best one.
"""

import gc
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.runtime import Loaded, Request, SharedBase, generate_batch, load, model_thread
from submodel.runtime.packed.formats import SHARED, SURVIVORS
from submodel.store import Store
from submodel.tasks.perplexity import decoded_losses, window_losses
from tests import families, tiny

PARTS = ("open", "extract", "export", "eval", "generate", "serve", *SURVIVORS, *SHARED)
NEW = 6  # tokens that are generated
PROMPTS = [tuple(tiny.ids(1, length, seed=length)[0].tolist()) for length in (5, 19, 12)]
_NEAR = {"bf16": 0.03, "int8": 0.12, "int4": 0.7, "shared": 0.03, "shared-int8": 0.12}  # error over norm of logits


@dataclass(frozen=True)
class Row:
    """What became of a family: for each part "ok", or why not; `refusal` is the one line that says what it cannot."""

    family: str
    parts: dict[str, str] = field(default_factory=dict)
    refusal: str = ""

    @property
    def is_full(self) -> bool:
        return len(self.parts) == len(PARTS) and all(outcome == "ok" for outcome in self.parts.values())


class Mismatch(Exception):
    """A result is not that of transformers."""


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def compare(given: torch.Tensor, expected: torch.Tensor, most: float = 2e-4) -> None:
    error = float((given - expected).norm() / expected.norm().clamp(min=1e-9))
    if not error <= most:
        raise Mismatch(f"logits differ by {error:.2g}")


def greedy(model: Any, prompt: tuple[int, ...]) -> list[int]:
    """By whole sequences: no cache takes part."""
    ids = list(prompt)
    for _ in range(NEW):
        ids.append(int(logits_of(model, torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == 258:
            break
    return ids[len(prompt) :]


def batch(loaded: Loaded) -> list[list[int]]:
    requests = [Request(str(at), prompt, NEW) for at, prompt in enumerate(PROMPTS)]
    done = {c.key: list(c.tokens) for c in generate_batch(loaded, requests, lanes=1)}
    return [done[str(at)] for at in range(len(PROMPTS))]


def served(loaded: Loaded) -> list[list[int]]:
    """As the server's engine writes them: in pieces of a prompt, side by side, one with two samples."""
    import threading

    got: dict[int, list[int]] = {}
    finish: dict[int, str] = {}
    done = threading.Semaphore(0)
    thread = model_thread.ModelThread(loaded, rows=4)

    def emit(at: int) -> Callable[[Any], None]:
        def take(piece: Any) -> None:
            if piece.sample == 0:
                got.setdefault(at, []).extend(piece.tokens)
            if piece.finish:
                finish[at] = piece.finish
                done.release()

        return take

    try:
        for turn in (0, 3):  # the second time with what the first has left
            for at, prompt in enumerate(PROMPTS):
                thread.submit(Request("", prompt, NEW, seeds=(0, 1) if at == 0 else (0,)), emit(at + turn))
            for _ in range(4):
                done.acquire(timeout=60)
    finally:
        thread.close()
    if set(finish.values()) - {"length", "eos"}:
        raise Mismatch(f"answers end with {sorted(set(finish.values()))}")
    if loaded.weight_format is None and [got[at] for at in range(3)] != [got[at + 3] for at in range(3)]:
        raise Mismatch("asked again it answers otherwise")
    return [got[at] for at in range(3)]


def liked(exact: Any, written: list[list[int]], most: float) -> None:
    """Each token's float32 logit is near the best."""
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        logits = logits_of(exact, torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
        loss = logits.max(-1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        if float(loss.max()) > most * float(logits.std(-1).mean()):
            raise Mismatch(f"a token is {float(loss.max() / logits.std(-1).mean()):.2g} deviations off the best")


def walk_family(family: str, folder: Path) -> Row:
    parts: dict[str, str] = {}
    row = Row(family, parts)
    shutil.rmtree(folder, ignore_errors=True)
    model_folder, store, out = folder / "model", folder / "store", folder / "out"
    state: dict[str, Any] = {}

    def attempt(part: str, action: Callable[[], None]) -> bool:
        try:
            action()
            parts[part] = "ok"
        except SubmodelError as error:
            parts[part] = f"refused: {error}"
        except Mismatch as error:
            parts[part] = f"WRONG: {error}"
        except Exception as error:
            import traceback

            frame = traceback.extract_tb(error.__traceback__)[-1]
            parts[part] = (
                f"FAULT: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]} [{Path(frame.filename).name}:{frame.lineno}]"
            )
        return parts[part] == "ok"

    families.save(family, model_folder)

    def opens() -> None:
        base = state["base"] = open_base(str(model_folder))
        reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
        compare(logits_of(base.load(torch.float32), tiny.ids(2, 24)), logits_of(reference, tiny.ids(2, 24)))

    def extracts() -> None:
        samples = [Samples("d", tiny.ids(4, 24))]
        extract(state["base"], samples, store, method="wanda", dtype=torch.float32)
        manifest = Store(store).manifest("d")
        state["matrices"] = manifest["matrices"]
        state["loaded"] = load(f"{store}@d", dtype=torch.float32)

    def exports() -> None:
        export_directory(state["base"], Store(store).masks("d"), out)
        state["exact"] = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        compare(logits_of(state["loaded"].model, tiny.ids(2, 24)), logits_of(state["exact"], tiny.ids(2, 24)))

    def evaluates() -> None:
        samples = Samples("d", tiny.ids(2, 24, seed=5))
        logits = logits_of(state["exact"], samples.ids)[:, :-1]
        expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), samples.ids[:, 1:], reduction="none").mean(
            1
        )
        for name, losses in (
            ("eval", window_losses(state["loaded"].model, samples)),
            ("eval --arithmetic decoding", decoded_losses(state["loaded"], samples, lambda _: None)),
        ):
            error = float((torch.from_numpy(losses) - expected).abs().max())
            if not error < 2e-3:
                raise Mismatch(f"{name} differs by {error:.2g} nats")

    def generates() -> None:
        expected = [greedy(state["exact"], prompt) for prompt in PROMPTS]
        state["expected"] = expected
        if (written := batch(state["loaded"])) != expected:
            raise Mismatch(f"tokens {written} are not {expected}")

    def serves() -> None:
        if (written := served(state["loaded"])) != state["expected"]:
            raise Mismatch(f"tokens {written} are not {state['expected']}")

    def packs(name: str) -> Callable[[], None]:
        def action() -> None:
            if name in SHARED:
                loaded = SharedBase(state["base"], name).submodel(Store(store), "d")
            else:
                loaded = load(f"{store}@d", weight_format=name)
            compare(logits_of(loaded.model, tiny.ids(1, 24)), logits_of(state["exact"], tiny.ids(1, 24)), _NEAR[name])
            liked(state["exact"], served(loaded), 4 * _NEAR[name])

        return action

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if attempt("open", opens) and attempt("extract", extracts) and attempt("export", exports):
            attempt("eval", evaluates)
            if attempt("generate", generates) or "expected" in state:
                attempt("serve", serves)
                for name in (*SURVIVORS, *SHARED):
                    attempt(name, packs(name))
    state.clear()
    gc.collect()
    return row
