"""Bits per byte: what a text costs a model, whatever its tokens are; all models are measured on the same bytes.

Documents in an order by chance are put end to end and cut into excerpts of equal size, at whole characters. Each model
cuts an excerpt into its own tokens and predicts all of them, the first one after the token that begins a text (or,
where there is none, ends it), as lm-evaluation-harness does for rolling log-likelihoods. The parts of a row are
excerpts, so that models of other vocabularies are compared piece by piece.

A sub-model that keeps a part of its base's tokens says the others in pieces (`prune.vocabulary.loss`).
"""

import hashlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.modeling_utils import PreTrainedModel

from submodel.base.tokenizer_model import TokenizerModel, tokenizer_model
from submodel.base.workers import Workers
from submodel.calibration import Document, Text, read_held_out
from submodel.errors import SubmodelError
from submodel.prune.vocabulary.loss import Ladder, window_losses
from submodel.runtime.packed.head import DomainHead
from submodel.runtime.vocabulary import TokenLimit
from submodel.tasks.cell import Cell, filled
from submodel.tasks.intervals import bootstrap
from submodel.tasks.perplexity import refuse_rows
from submodel.tasks.rows import Row

_BYTES = 3  # a token, about: what a number of tokens means here; code of today's tokenizers has 3 to 4
_LOGIT_ROWS = 32  # rows whose float32 copy stays in cache


def bits_per_byte_rows(cell: Cell) -> Iterator[Row]:
    """`bits-per-byte:TEXT`, TEXT as of a perplexity, in bytes about as much as of its tokens."""
    task, loaded, settings = cell.task, cell.loaded, cell.settings
    if settings.decode:
        raise SubmodelError("bits-per-byte reads text as a prompt: leave --decode out, or give perplexity")
    tokens = settings.tokens if settings.limit is None else settings.limit * settings.seq_len
    size, key = _BYTES * settings.seq_len, ("bytes", task.spec)
    if key not in cell.shared:
        text = read_held_out(task.spec, settings.data_dir)
        cell.shared[key] = text, *excerpts(text, _BYTES * tokens, size, settings.seed)
    text, parts, read = cell.shared[key]
    rows: dict[str, list[int]] = {}
    for document in read:
        rows.setdefault(document.source, []).append(document.row)
    refuse_rows(loaded, text, rows)
    windows = [_tokens(loaded.tokenizer, part, loaded.reference) for part in parts]
    longest, context = max(map(len, windows)), loaded.base.context
    if context is not None and longest > context:
        raise SubmodelError(
            f"--seq-len {settings.seq_len}: excerpts of {size:,} bytes are up to {longest:,} tokens, "
            f"{loaded.reference} takes {context:,}: give less"
        )
    data = {
        "name": task.spec,
        "split": text.split,
        "documents": len(read),
        "sha256_text": hashlib.sha256("".join(parts).encode()).hexdigest(),
        **({"set": text.about["set"]} if "set" in text.about else {}),
    }
    sizes = np.array([len(part.encode()) for part in parts])
    row = cell.row("bits per byte", data, {"bytes": int(sizes.sum()), "excerpt": size, "seed": settings.seed})
    if cell.is_done(row):
        return
    started, done, lock = time.monotonic(), 0, threading.Lock()
    rules = None if loaded.limit is None else tokenizer_model(loaded.tokenizer, loaded.reference)

    def nats(window: list[int]) -> float:
        nonlocal done
        result = window_nats(loaded.model, window, loaded.limit, rules)
        with lock:
            done += 1
        cell.progress(f"{loaded.name} on {task}", done, len(windows))
        return result

    with Workers(str(loaded.model.device)) as workers:
        bits = np.array(workers.map(nats, windows)) / math.log(2) / sizes
    yield filled(row, float(bits.mean()), bootstrap(bits), int(sizes.sum()), started, bits)


def excerpts(text: Text, total: int, size: int, seed: int) -> tuple[list[str], list[Document]]:
    """Excerpts of `size` bytes (up to three fewer, at whole characters), together at most `total`; the documents read.

    Raises SubmodelError when there is not one.
    """
    parts: list[str] = []
    read: list[Document] = []
    rest = b""
    for place in np.random.default_rng(seed).permutation(len(text.documents)):
        if (len(parts) + 1) * size > total and parts:
            break
        document = text.documents[place]
        rest += document.text.encode() + b"\n"
        read.append(document)
        while len(rest) >= size and (not parts or (len(parts) + 1) * size <= total):
            at = size
            while rest[at : at + 1] and rest[at] & 0xC0 == 0x80:  # within a character
                at -= 1
            parts.append(rest[:at].decode())
            rest = rest[at:]
    if not parts:
        raise SubmodelError(f"{text.path}: {len(rest):,} bytes in it, an excerpt has {size:,}: give a lower --seq-len")
    return parts, read


def window_nats(
    model: PreTrainedModel, tokens: Sequence[int], limit: TokenLimit | None = None, rules: TokenizerModel | None = None
) -> float:
    """What all tokens but the first cost, in nats.

    Args:
        model: the model.
        tokens: of the window.
        limit: the tokens that it may say; with one, a cost is that of `prune.vocabulary.loss`, tokens said again.
        rules: of the tokenizer, where there is a limit.
    """
    ids, head = torch.tensor(tokens), model.get_output_embeddings()
    with torch.inference_mode():
        if limit is not None and rules is not None:
            rank = np.ones(head.out_features, dtype=np.int64)  # type: ignore[union-attr]
            rank[limit.ids.numpy()] = 0
            own = head.beside([limit.used_by(tuple(tokens))]) if isinstance(head, DomainHead) else nullcontext()
            with own:
                return float(window_losses(model, ids, rules, [Ladder(rank, (1,), said_again=True)]).kept[0][0])
        logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0, :-1]
        total, targets = 0.0, ids[1:].to(logits.device)
        for at in range(0, len(logits), _LOGIT_ROWS):
            part = logits[at : at + _LOGIT_ROWS].float()
            total += float(F.cross_entropy(part, targets[at : at + _LOGIT_ROWS], reduction="sum"))
        return total


def _tokens(tokenizer: Any, text: str, reference: str) -> list[int]:
    """What begins a text, and the text."""
    for begin in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if begin is not None:
            return [begin, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    raise SubmodelError(f"{reference}: its tokenizer has no token that begins or ends a text: bits-per-byte needs one")
