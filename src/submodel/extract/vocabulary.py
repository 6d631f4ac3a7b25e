"""The step that chooses which tokens a domain keeps: count them, order them, and see how few lose no more than asked.

What is measured is the dense base, whose losses a sub-model's follow; so the step hangs on no other one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers.modeling_utils import PreTrainedModel

from submodel.base.models import Base
from submodel.base.tokenizer_model import TokenizerModel, tokenizer_model
from submodel.base.weights import write_tensors
from submodel.calibration import counting, requests, vocabulary_text
from submodel.calibration.counting import Counts, count
from submodel.calibration.vocabulary_text import VocabularyText
from submodel.errors import SubmodelError
from submodel.extract.check import fits_memory
from submodel.extract.step import Cost, Excerpt, Job, Progress, State, constants
from submodel.prune.vocabulary import KINDS, Vocabulary, choose
from submodel.prune.vocabulary.choose import check_bound, curve, ladder, measure, worth_measuring
from submodel.prune.vocabulary.expected import expected_uses
from submodel.prune.vocabulary.needed import configs_of, head_rows, head_width, needed, vocabulary_parameters
from submodel.prune.vocabulary.order import cut_order, head_order
from submodel.runtime.load import masked_model

DEFAULT_LOSS = 0.005
EXPECTED = 0.1  # what the model expects counts for, beside a domain's text
_SPELLING = 0.5  # of the run of a text, what running its spellings takes beside it, about


_MODULES = (choose, counting, requests, vocabulary_text)


@dataclass(frozen=True)
class ChooseVocabulary:
    """Keep the fewest tokens whose absence loses at most `loss` of the domain's bits a byte."""

    loss: float

    @property
    def name(self) -> str:
        return "vocabulary"

    @property
    def reads(self) -> Excerpt | None:
        return None  # its text is not the calibration's: see `Job.vocabulary_texts`

    def key(self) -> dict[str, Any]:
        return {"step": self.name, "loss": self.loss, "expected": EXPECTED, **constants(*_MODULES)}

    def check(self, job: Job) -> None:
        check_bound(self.loss)
        tokenizer_model(job.base.tokenizer, job.base.reference)
        for domain in job.texts:
            if domain not in job.vocabulary_texts:
                raise SubmodelError(f"--vocab domain: {domain} has no text to count tokens in: give --domain")
        if not fits_memory(job.base):
            raise SubmodelError(
                f"--vocab domain: {job.base.reference} does not fit into this machine's memory, where it is to be "
                "measured: leave --vocab out"
            )
        for text in job.vocabulary_texts.values():
            if int(text.held_out.ids.max()) >= head_rows(job.base):
                raise SubmodelError(
                    f"--vocab domain: {text.name} uses token {int(text.held_out.ids.max())}, {job.base.reference} has "
                    f"{head_rows(job.base):,} rows: its tokenizer is that of another model"
                )

    def cost(self, job: Job) -> Cost:
        texts = job.vocabulary_texts.values()
        tokens = sum(text.held_out.ids.numel() + text.sample.ids.numel() for text in texts)
        longest = max((text.held_out.ids.shape[1] for text in job.vocabulary_texts.values()), default=0)
        operations = 2.0 * (1 + _SPELLING) * tokens * job.base.parameters
        memory = job.dtype.itemsize * (job.base.parameters + longest * head_rows(job.base))
        return Cost(tokens * job.blocks, operations, memory)

    def run(self, job: Job, states: Mapping[str, State], folder: Path, progress: Progress) -> dict[str, State]:
        rules = tokenizer_model(job.base.tokenizer, job.base.reference)
        always = needed(job.base.tokenizer, rules, configs_of(job.base), head_rows(job.base))
        model = _dense(job)
        done = 0
        result: dict[str, State] = {}

        def count_tokens(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress(job.blocks * done)

        for name, state in states.items():
            text = job.vocabulary_texts[name]
            counts = _counts(text, job.base, folder / f"{name}.tokens")
            expected = expected_uses(model, text.sample.ids, count_tokens)
            vocabulary, facts = self._choose(job.base, model, rules, always, text, counts, expected, count_tokens)
            result[name] = replace(state, vocabulary=vocabulary, facts={**state.facts, "vocabulary": facts})
        return result

    def _choose(
        self,
        base: Base,
        model: PreTrainedModel,
        rules: TokenizerModel,
        always: set[int],
        text: VocabularyText,
        counts: list[Counts],
        expected: np.ndarray,
        progress: Any,
    ) -> tuple[Vocabulary, dict[str, Any]]:
        """One domain's tokens, and what the manifest says of them."""
        rows, windows = head_rows(base), text.held_out.ids
        shares = [share for _, share in text.counted]
        in_windows, uses = (_together(counts, shares, field) for field in ("windows", "uses"))
        in_windows, uses = (seen + EXPECTED * seen.sum() * expected for seen in (in_windows, uses))
        cut_always = {token for token in rules.with_parts(always) if token < rows}
        ladders = {
            "head": ladder(head_order(rules, in_windows, always), always, rows, said_again=True),
            "cut": ladder(cut_order(rules, uses, always), cut_always, rows, said_again=False),
        }
        ladders = {kind: worth_measuring(one, windows.numpy()) for kind, one in ladders.items()}
        losses = measure(model, windows, rules, list(ladders.values()), progress)
        said = windows.shape[1] - 1
        curves = {kind: curve(one, losses, place, said) for place, (kind, one) in enumerate(ladders.items())}
        chosen = {kind: curves[kind].fewest(self.loss) for kind in KINDS}
        kept = {kind: np.flatnonzero(ladders[kind].rank < chosen[kind].tokens) for kind in KINDS}
        size_bytes = sum(rules.size_bytes(token) for token in windows[:, 1:].flatten().tolist())
        facts = {
            "loss": self.loss,
            "rows": rows,
            "width": head_width(base),
            "parameters": vocabulary_parameters(base),
            "always": len(always),
            **{kind: {"loss": round(chosen[kind].loss, 6), "error": round(chosen[kind].error, 6)} for kind in KINDS},
            "curve": {kind: one.as_dicts() for kind, one in curves.items()},
            "bits_per_byte": round(float(sum(loss.full for loss in losses)) / math.log(2) / max(1, size_bytes), 6),
            "held_out": {
                "windows": len(windows),
                "seq_len": windows.shape[1],
                "bytes": size_bytes,
                "sha256_tokens": text.held_out.provenance.sha256_tokens if text.held_out.provenance else None,
            },
            "counted": text.describe(counts),
        }
        return Vocabulary.of(rows, **kept), facts


def _dense(job: Job) -> PreTrainedModel:
    """The dense model: the one that an earlier step has opened, if there is one."""
    if "dense_model" in vars(job):
        return job.dense_model.model
    return masked_model(job.base, {}, job.dtype, job.device)


def _counts(text: VocabularyText, base: Base, file: Path) -> list[Counts]:
    """The counts of a domain's texts, from the file that an earlier run has written or counted now."""
    rows = head_rows(base)
    if not file.is_file():
        counts = [count(part.documents, base.tokenizer, rows) for part, _ in text.counted]
        tensors = {
            f"{number} {field}": torch.from_numpy(np.asarray(getattr(one, field), dtype=np.int64))
            for number, one in enumerate(counts)
            for field in ("uses", "windows", "documents", "above")
        }
        partial_file = file.with_name(f"{file.name}.partial")
        write_tensors(partial_file, tensors, {})
        partial_file.replace(file)
    with safe_open(file, framework="numpy") as stored:
        read = partial(_read_counts, stored)
        return [read(number) for number in range(len(text.counted))]


def _read_counts(stored: Any, number: int) -> Counts:
    uses, windows, documents, above = (
        stored.get_tensor(f"{number} {field}") for field in ("uses", "windows", "documents", "above")
    )
    return Counts(uses, windows, tuple(documents.tolist()), int(above))


def _together(counts: list[Counts], shares: list[float], field: str) -> np.ndarray:
    """Uses, or windows, of each token among a million tokens of the domain, float64 (rows,)."""
    parts = (share * 1e6 / max(1, one.tokens) * getattr(one, field) for one, share in zip(counts, shares, strict=True))
    return np.sum([*parts], axis=0)
