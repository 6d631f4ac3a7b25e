"""Take a family through everything that can be done with a model, against `transformers` in float32.

Tokens are greedy. A packed format rounds, so its logits are compared in norm, and each token that it writes must be
one that the float32 model likes almost as much as its best one.
"""

import gc
import shutil
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM

from submodel.base.models import first_line
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.router import profile
from submodel.runtime import Loaded, Request, SharedBase, generate_batch, load, model_thread
from submodel.runtime.cache import KeyValueCache, cache_for
from submodel.runtime.packed.formats import SHARED, SURVIVORS
from submodel.runtime.states import has_cache
from submodel.store import Store
from submodel.tasks.perplexity import decoded_losses, window_losses
from tests import families, tiny

FORMATS = (*SURVIVORS, *SHARED)
PARTS = ("open", "extract", "export", "eval", "generate", "serve", *FORMATS)
BACKGROUND = {kind: texts[:4] for kind, texts in profile.background.texts().items()}
NEW = 6  # tokens that are generated


def sample_ids(count: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random ids without the few that a family may take for padding."""
    return tiny.ids(count, length, seed).clamp(min=4)


PROMPTS = [tuple(sample_ids(1, length, seed=length)[0].tolist()) for length in (5, 19, 12)]
_MORE = {"bf16": 0.02, "int8": 0.2, "int4": 0.8, "shared": 0.02, "shared-int8": 0.2}  # error over norm of logits


@dataclass(frozen=True)
class Row:
    """What became of a family.

    Attributes:
        family: a model type.
        keeps: what it keeps of a text.
        parts: for each part "ok", or why not.
        unbuilt: why `transformers` gives no tiny model of it.
    """

    family: str
    keeps: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    unbuilt: str = ""

    @property
    def kind(self) -> str:
        """full, refused, failed or unbuilt."""
        if self.unbuilt:
            return "unbuilt"
        if all(self.parts.get(part) == "ok" for part in PARTS):
            return "full"
        return "failed" if any(o.startswith(("WRONG", "FAULT")) for o in self.parts.values()) else "refused"

    @property
    def reason(self) -> str:
        """Why it does not work in full."""
        first = next((outcome for outcome in self.parts.values() if outcome != "ok"), "")
        return self.unbuilt or first.removeprefix("refused: ")


class Mismatch(Exception):
    """A result is not that of transformers."""


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits.float()


def compare(given: torch.Tensor, expected: torch.Tensor, most: float = 2e-4) -> None:
    error = float((given - expected).norm() / expected.norm().clamp(min=1e-9))
    if not error <= most:
        raise Mismatch(f"logits differ by {error:.2g}")


def errors(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Of most positions: where rounding lets a router choose another expert, a position may differ by much."""
    return float(((given - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


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
    got: dict[int, list[int]] = {}
    finish: dict[int, str] = {}
    done = threading.Semaphore(0)
    stack = ExitStack()
    stack.enter_context(patch.object(model_thread, "PIECE", 8))
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
        stack.close()
    if set(finish.values()) - {"length", "eos"}:
        raise Mismatch(f"answers end with {sorted(set(finish.values()))}")
    return [got[at] for at in range(6)]


def liked(exact: Any, written: list[list[int]], most: float) -> None:
    """Most tokens' float32 logits are near the best."""
    losses: list[torch.Tensor] = []
    for prompt, tokens in zip(PROMPTS * 2, written, strict=True):
        logits = logits_of(exact, torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
        loss = logits.max(-1).values - logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        losses.append(loss / logits.std(-1))
    if not float(torch.cat(losses).median()) <= most:
        raise Mismatch(f"tokens are {float(torch.cat(losses).median()):.2g} deviations off the best")


def walk_family(family: str, folder: Path) -> Row:
    """Take a family through all parts, as far as each lets the next one begin.

    Args:
        family: a model type.
        folder: for models and a store; emptied first.
    """
    parts: dict[str, str] = {}
    shutil.rmtree(folder, ignore_errors=True)
    model_folder, store, out = folder / "model", folder / "store", folder / "out"
    state: dict[str, Any] = {"keeps": ""}

    def attempt(part: str, action: Callable[[], None]) -> bool:
        try:
            action()
            parts[part] = "ok"
        except SubmodelError as error:
            parts[part] = f"refused: {error}".replace(f"{model_folder}: ", "").replace(f"{store}@d: ", "")
        except Mismatch as error:
            parts[part] = f"WRONG: {error}"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            at = f"{Path(where.filename).name}:{where.lineno}"
            parts[part] = f"FAULT: {type(error).__name__} at {at}: {first_line(error)}"
        return parts[part] == "ok"

    try:
        families.save(family, model_folder)
        reference = None
        if not families.is_other_kind(family):
            reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
            logits_of(reference, sample_ids(1, 4))
    except Exception as error:
        return Row(family, unbuilt=f"{type(error).__name__}: {first_line(error)}")

    def opens() -> None:
        base = state["base"] = open_base(str(model_folder))
        compare(logits_of(base.load(torch.float32), sample_ids(2, 24)), logits_of(reference, sample_ids(2, 24)))

    def extracts() -> None:
        samples = [Samples("d", sample_ids(4, 24))]
        with ExitStack() as stack:
            for name in ("PIECES", "REQUESTS", "STUBS"):  # less of what routing is made of
                stack.enter_context(patch.object(profile, name, 8))
            stack.enter_context(patch.object(profile.background, "texts", lambda: BACKGROUND))
            extract(state["base"], samples, store, method="wanda", dtype=torch.float32)
        manifest = Store(store).manifest("d")
        state["matrices"] = manifest["matrices"]
        state["loaded"] = load(f"{store}@d", dtype=torch.float32)
        kept = cache_for(state["loaded"].model, 1, 1)
        own = "a cache of each row's own" if has_cache(state["loaded"].model) else "nothing"
        state["keeps"] = "keys and values" if isinstance(kept, KeyValueCache) else own

    def exports() -> None:
        export_directory(state["base"], Store(store).masks("d"), out)
        state["exact"] = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        compare(logits_of(state["loaded"].model, sample_ids(2, 24)), logits_of(state["exact"], sample_ids(2, 24)))

    def evaluates() -> None:
        samples = Samples("d", sample_ids(2, 24, seed=5))
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
        # what bfloat16 costs a family is its own; a format costs so much more at most
        rounded = load(f"{store}@d", dtype=torch.bfloat16).model
        state["rounding"] = errors(logits_of(rounded, sample_ids(2, 24)), logits_of(state["exact"], sample_ids(2, 24)))
        expected = [greedy(state["exact"], prompt) for prompt in PROMPTS]
        state["expected"] = expected
        if (written := batch(state["loaded"])) != expected:
            raise Mismatch(f"tokens {written} are not {expected}")

    def serves() -> None:
        written = served(state["loaded"])
        if written[:3] != state["expected"]:
            raise Mismatch(f"tokens {written} are not {state['expected']}")
        liked(state["exact"], written, 0.001)

    def packs(name: str) -> Callable[[], None]:
        def action() -> None:
            if name in SHARED:
                loaded = SharedBase(state["base"], name).submodel(Store(store), "d")
            else:
                loaded = load(f"{store}@d", weight_format=name)
            error = errors(logits_of(loaded.model, sample_ids(2, 24)), logits_of(state["exact"], sample_ids(2, 24)))
            if not error <= state["rounding"] + _MORE[name]:
                raise Mismatch(f"logits differ by {error:.2g}, those of bfloat16 by {state['rounding']:.2g}")
            liked(state["exact"], served(loaded), 2.5 * (state["rounding"] + _MORE[name]))

        return action

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if attempt("open", opens) and attempt("extract", extracts) and attempt("export", exports):
            attempt("eval", evaluates)
            if attempt("generate", generates) or "expected" in state:
                attempt("serve", serves)
                for name in FORMATS:
                    attempt(name, packs(name))
    row = Row(family, state["keeps"], parts)
    state.clear()
    gc.collect()
    return row
