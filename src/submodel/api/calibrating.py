"""A domain's text as token samples for one base."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Budget, Domain, Problems, Samples, TooLittleText, load_domain
from submodel.calibration.constructors import domain as parse_domain
from submodel.calibration.packing import SEQ_LEN, TOKENS
from submodel.extract.enough_text import TextCurve
from submodel.tasks.evaluate import problems_in

Say = Callable[[str], Any]
Settle = Callable[[list[Samples]], dict[str, TextCurve]]


def calibrate(
    domain: str | Domain,
    base: str | Base,
    *,
    tokens: int = TOKENS,
    seq_len: int = SEQ_LEN,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> Samples:
    """Read as much of a domain's text as a sub-model is to be calibrated on, in the base's tokens.

    Args:
        domain: what `domain`, `repository`, `text_file` or `mixture` returned, or a spec such as "python".
        base: what `open_base` returned, or its reference.
        tokens: how many; masks have settled by the default.
        seq_len: tokens a sample; fewer where the base takes no more.
        seed: of the choice of text.
        data_dir: where named sets lie as SET/SPLIT.jsonl; the hub if None.

    Raises:
        SubmodelError: text that is not there, or is less than so many tokens.
    """
    if isinstance(domain, str):
        domain = parse_domain(domain)
    if isinstance(base, str):
        base = open_base(base)
    budget = Budget(min(seq_len, base.context or seq_len), tokens=tokens, seed=seed)
    return load_domain(domain, base.tokenizer, budget, data_dir=Path(data_dir) if data_dir is not None else None)


def calibrate_together(
    domains: Sequence[Domain],
    base: Base,
    budget: Budget,
    *,
    data_dir: Path | None = None,
    at_most: bool = False,
    settle: Settle | None = None,
    skip_contamination: bool = False,
    say: Say = lambda line: None,
) -> list[Samples]:
    """The text of several domains, as much of one as of another.

    Args:
        domains: what the sub-models are for.
        base: whose tokens they are.
        budget: how much text of each.
        data_dir: where named sets lie; the hub if None.
        at_most: where a text is shorter than the budget, take as many samples of every domain as it fills.
        settle: told the samples at most, returns name -> `TextCurve`; no more text is taken than the curves need.
        skip_contamination: do not look for the problems of tasks in `data_dir` among the text.
        say: told in a line where less text is taken than was asked for, or more would be needed.

    Raises:
        SubmodelError: text that is not there, or is less than the budget.
    """

    def read(budget: Budget) -> list[Samples]:
        return [load_domain(domain, base.tokenizer, budget, data_dir=data_dir) for domain in domains]

    if not at_most and settle is None:
        texts = read(budget)
    else:
        texts, budget = _at_most(budget, read, say)
    if settle is not None:
        texts = _until_settled(texts, budget, read, settle, say)
    if data_dir and not skip_contamination:
        problems = Problems(problems_in(data_dir))
        texts = [replace(t, contamination=problems.overlaps(t.documents)) if t.documents else t for t in texts]
    return texts


def _at_most(budget: Budget, read: Callable[[Budget], list[Samples]], say: Say) -> tuple[list[Samples], Budget]:
    """All domains within a budget, or within as many samples as the shortest of their texts fills."""
    while True:
        try:
            return read(budget), budget
        except TooLittleText as short:
            if short.samples < 2:
                raise
            say(f"{short.path}: enough for {short.samples} samples, not {budget.count}: no domain gets more")
            budget = replace(budget, samples=short.samples, tokens=None)


def _until_settled(
    texts: list[Samples], budget: Budget, read: Callable[[Budget], list[Samples]], settle: Settle, say: Say
) -> list[Samples]:
    """As much text as the masks of each domain need."""
    curves = settle(texts)
    for name, curve in curves.items():
        if not curve.is_settled:
            say(
                f"{name}: not settled: a distance of {curve.distances[-1]:.4f} at {curve.tokens[-1]:,} tokens "
                f"(tolerance {curve.tolerance:g}); all {len(texts[0].ids)} samples are used"
            )
    if all(curve.is_settled for curve in curves.values()):
        texts = read(replace(budget, samples=max(curve.samples[-1] for curve in curves.values())))
    return [replace(text, settling=curves[text.name].as_dict()) for text in texts]
