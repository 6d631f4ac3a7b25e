"""Perplexity: exp of the mean negative log-likelihood a token, over packed windows of held-out text.

A window is run as a whole, as a prompt is; `Settings.decode` runs it token by token instead, as text is generated:
packed matrices in 8 and 4 bits round their inputs only then. A window of `seq_len` tokens predicts seq_len - 1 of
them. The 95% interval is a bootstrap over whole windows (blocks of text), since the tokens of one text are not
independent.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_utils import PreTrainedModel

from submodel.base.workers import Workers
from submodel.calibration import (
    Budget,
    Samples,
    Text,
    pack,
    read_held_out,
    read_repository,
    rows_seen,
    text_read,
    tokens_in,
)
from submodel.errors import SubmodelError
from submodel.runtime import Loaded
from submodel.runtime.cache import cache_for
from submodel.runtime.forward import prefill, step
from submodel.tasks.cell import Cell, filled
from submodel.tasks.intervals import bootstrap
from submodel.tasks.rows import Row
from submodel.tasks.seen_code import seen_elsewhere

_TOGETHER = 4  # windows decoded side by side: each is computed as if alone (more rows are unpacked and multiplied)
_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache; of all logits it would be the peak of memory


@dataclass(frozen=True)
class Perplexity:
    """A perplexity with its 95% interval over `tokens` predicted tokens."""

    value: float
    low: float
    high: float
    tokens: int


def window_losses(
    model: PreTrainedModel, samples: Samples, progress: Callable[[int], Any] = lambda tokens: None
) -> np.ndarray:
    """Mean nats a predicted token of every window, float64 (samples,)."""
    with Workers(str(model.device)) as workers:
        losses = workers.map(lambda window: _window_loss(model, window, progress), samples.ids)
    return np.array(losses) / (samples.ids.shape[1] - 1)


def from_losses(nats: np.ndarray, predicted: int, seed: int = 0) -> Perplexity:
    """Mean nats a token of each window, `predicted` tokens a window -> perplexity with a bootstrap interval."""
    low, high = bootstrap(nats, np.exp, seed)
    return Perplexity(float(np.exp(nats.mean())), low, high, len(nats) * predicted)


def paired_ratio(nats: np.ndarray, against: np.ndarray) -> tuple[float, float, float]:
    """One perplexity over another's on the same windows, from mean nats a token of each, with its 95% interval."""
    difference = nats - against
    return float(np.exp(difference.mean())), *bootstrap(difference, np.exp)


Measure = Callable[[Loaded, Samples, Callable[[int], Any]], np.ndarray]
"""(model, samples, told the tokens that are done) -> mean nats a predicted token of every window."""


def _prefilled(loaded: Loaded, samples: Samples, progress: Callable[[int], Any]) -> np.ndarray:
    return window_losses(loaded.model, samples, progress)


def decoded_losses(loaded: Loaded, samples: Samples, progress: Callable[[int], Any]) -> np.ndarray:
    """`window_losses` with the arithmetic of decoding, a few windows side by side on every core."""
    with Workers(str(loaded.model.device)) as workers:
        groups = workers.map(lambda ids: _decoded_losses(loaded, ids, progress), samples.ids.split(_TOGETHER))
    return np.concatenate(groups) / (samples.ids.shape[1] - 1)


def _decoded_losses(loaded: Loaded, ids: torch.Tensor, progress: Callable[[int], Any]) -> np.ndarray:
    begun = [prefill(loaded, [token], 1) for token in ids[:, 0].tolist()]
    cache = cache_for(loaded.model, len(ids), ids.shape[1])
    for one, _ in begun:
        cache.add(one, 0)
    logits = torch.cat([logits for _, logits in begun])
    losses = np.zeros(len(ids))
    for at in range(1, ids.shape[1]):
        losses += F.cross_entropy(logits.float(), ids[:, at].to(logits.device), reduction="none").double().cpu().numpy()
        if at + 1 < ids.shape[1]:
            logits = step(loaded, cache, ids[:, at].tolist())
        progress(len(ids))
    return losses


def _window_loss(model: PreTrainedModel, window: torch.Tensor, progress: Callable[[int], Any]) -> float:
    ids = window[None].to(model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    total = 0.0
    for at in range(0, len(logits), _LOGIT_ROWS):
        part = logits[at : at + _LOGIT_ROWS].float()
        total += float(F.cross_entropy(part, ids[0, at + 1 : at + 1 + len(part)], reduction="sum"))
    progress(len(window))
    return total


def perplexity_rows(cell: Cell, measure: Measure = _prefilled) -> Iterator[Row]:
    """`perplexity:PATH[:COLUMN]`: text of a file, or the held-out files of a source tree; `perplexity:SET/SPLIT`: a
    split of a named set; `repository:PATH[:LANGUAGE]`: the held-out files of a repository, as many tokens as there are
    if these are fewer."""
    task, loaded, settings = cell.task, cell.loaded, cell.settings
    samples, data, used = text_of(cell)
    used |= {"arithmetic": "decoding"} if settings.decode else {}
    row = cell.row("perplexity", data, used)
    if cell.is_done(row):
        return
    if task.name == "repository" and (line := seen_elsewhere(loaded, cell.shared[_key(cell)][0], settings.data_dir)):
        cell.say(line)
    started = time.monotonic()
    seen = 0
    lock = threading.Lock()

    def count(tokens: int) -> None:
        nonlocal seen
        with lock:
            seen += tokens
        cell.progress(f"{loaded.name} on {task.spec}", seen, samples.ids.numel())

    losses = (decoded_losses if settings.decode else measure)(loaded, samples, count)
    result = from_losses(losses, settings.seq_len - 1)
    yield filled(row, result.value, (result.low, result.high), result.tokens, started, losses)


def text_of(cell: Cell) -> tuple[Samples, dict[str, Any], dict[str, Any]]:
    """The windows of a task that is given its text, and what a row says of it: its data, its settings.

    Raises SubmodelError when it is not there, the model was calibrated on it, or a window is beyond its context.
    """
    task, loaded, settings = cell.task, cell.loaded, cell.settings
    longest = loaded.base.context or settings.seq_len
    if settings.seq_len > longest:
        raise SubmodelError(f"--seq-len {settings.seq_len}: {loaded.reference} takes {longest} tokens: give no more")
    key = _key(cell)
    if key not in cell.shared:
        tokens = settings.tokens if settings.limit is None else settings.limit * settings.seq_len
        if task.name == "repository":
            text = read_repository(task.spec, task.spec, "held-out")
            samples = as_much_as_there_is(text, loaded.tokenizer, tokens, settings.seq_len, settings.seed)
        else:
            text = read_held_out(task.spec, settings.data_dir)
            budget = Budget(settings.seq_len, tokens=tokens, seed=settings.seed)
            samples = pack(text.name, [(text, 1)], loaded.tokenizer, budget)
        cell.shared[key] = text, samples
    text, samples = cell.shared[key]
    refuse_calibrated_rows(loaded, samples, text)
    provenance = samples.provenance
    assert provenance is not None
    data = {
        "name": task.spec,
        "split": provenance.split,
        "documents": provenance.documents,
        "sha256_tokens": provenance.sha256_tokens,
    }
    if "set" in provenance.about:
        data["set"] = provenance.about["set"]
    return samples, data, {"tokens": provenance.tokens, "seq_len": settings.seq_len, "seed": settings.seed}


def _key(cell: Cell) -> tuple[Any, ...]:
    """Where the cells of one task and tokenizer share its text."""
    return ("text", cell.loaded.base.sha256, cell.task)


def as_much_as_there_is(text: Text, tokenizer: Any, tokens: int, seq_len: int, seed: int = 0) -> Samples:
    """Up to `tokens` tokens of held-out text. Raises SubmodelError when they do not fill one window of `seq_len`."""
    available = tokens_in(text, tokenizer)
    if available < seq_len:
        raise SubmodelError(
            f"{text.path}: {available:,} tokens in its {len(text.documents)} held-out files: "
            f"give --seq-len {available} or less"
        )
    return pack(text.name, [(text, 1)], tokenizer, Budget(seq_len, tokens=min(available, tokens), seed=seed))


def refuse_calibrated_rows(loaded: Loaded, samples: Samples, text: Text) -> None:
    """Rule 1 of the science: never evaluate on what was calibrated on.

    Raises SubmodelError when calibration read any of the rows that `samples` take from `text`.
    """
    assert samples.provenance is not None
    refuse_rows(loaded, text, samples.provenance.rows)


def refuse_rows(loaded: Loaded, text: Text, rows_taken: Mapping[str, Sequence[int]]) -> None:
    """Raises SubmodelError when calibration read any rows, source -> their numbers, that are taken from `text`."""
    seen = rows_seen(text_read(loaded.manifest), text)
    for source, rows in rows_taken.items():
        common = seen.get(source, set()) & set(rows)
        if common:
            raise SubmodelError(
                f"{text.path}: {loaded.reference} was calibrated on {len(common)} of the rows asked for "
                f"(row {min(common)} among them): evaluate on text that it has not seen"
            )
