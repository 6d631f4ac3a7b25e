"""An extraction from the names of its domains to sub-models in a store."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from submodel import store
from submodel.api.calibrating import calibrate_together
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.base.workers import share_heap
from submodel.calibration import Budget, Domain, Samples, read_held_out
from submodel.calibration.constructors import domain as parse_domain
from submodel.calibration.held_out import held_out as held_out_of
from submodel.calibration.packing import SEQ_LEN, TOKENS
from submodel.calibration.vocabulary_text import SEQ_LEN as WINDOW
from submodel.calibration.vocabulary_text import VocabularyText, read_vocabulary_text
from submodel.errors import SubmodelError, unknown_name
from submodel.extract import check as checks
from submodel.extract import job
from submodel.extract.bound import check_bound, search
from submodel.extract.enough_text import TOLERANCE, TextCurve, enough_text
from submodel.extract.job import Extraction
from submodel.extract.plan import make_plan
from submodel.extract.steps import UNIFORM, parse, reads_text
from submodel.extract.vocabulary import DEFAULT_LOSS
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, parse_sparsity
from submodel.prune.vocabulary.choose import check_bound as check_vocabulary_bound
from submodel.tasks.perplexity import as_much_as_there_is

AUTO = "auto"
VOCABULARIES = ("all", "domain")
_MOST_HELD_OUT = 50_000  # tokens that `max_loss` is measured on at most
Progress = Callable[[str, int, int], Any]


def extract(
    base: str | Base,
    domains: str | Domain | Samples | Sequence[str | Domain | Samples],
    out: str | Path,
    *,
    sparsity: float | Sparsity | None = None,
    pattern: str | None = None,
    effort: str | None = None,
    tokens: int | str | None = None,
    method: str | None = None,
    allocation: str | None = None,
    grid: str | None = None,
    max_loss: float | None = None,
    held_out: str | None = None,
    vocab: str = "all",
    vocab_loss: float | None = None,
    samples: int | None = None,
    seq_len: int = SEQ_LEN,
    tolerance: float = TOLERANCE,
    shape: str = "packed",
    form: str = "raw",
    seed: int = 0,
    data_dir: str | Path | None = None,
    skip_contamination: bool = False,
    check: bool = True,
    routing: bool = True,
    dry_run: bool = False,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    batch_tokens: int = 512,
    trust_remote_code: bool = False,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], Any] = lambda line: None,
) -> Extraction:
    """Derive one sub-model per domain; every block of the base is read once for all of them.

    What the store has already with the same recipe is left as it is, and what a killed run did is gone on with.

    Args:
        base: what `open_base` returned, or a reference: a Hugging Face directory, a hub id or a .gguf file.
        domains: one or several of: a spec such as "python" or "mine=PATH", what `domain`, `repository`, `text_file` or
            `mixture` returned, or text that `calibrate` has read. A sub-model gets its domain's name.
        out: the store, made if it is not there.
        sparsity: the fraction of the weights to remove; half of every row if None.
        pattern: keep N of every M consecutive weights instead, such as "2:4".
        effort: "quick", "good" or "best", in place of a method (see `submodel.extract.effort`); "good" if neither.
        tokens: of calibration text for every domain; 32,768, or what there is, if None; "auto": as many as Wanda's
            masks need to settle.
        method: a key of SCORES, with `+reconstruct`, `+distil` or both after it.
        allocation: "uniform", "rows" or "marginal": how the sparsity is spread.
        grid: "int8" or "int4": the kept weights get values that this packed format holds exactly.
        max_loss: find the highest sparsity at which `held_out` loses no more than so many nats a token.
        held_out: text for `max_loss`: PATH[:COLUMN], or SET/SPLIT such as python/test.
        vocab: "all", or "domain": keep the tokens that the domain needs.
        vocab_loss: of `vocab="domain"`: what held-out text may lose of its bits a byte, relatively; 0.005 if None.
        samples: a number of calibration samples, in place of `tokens`.
        seq_len: tokens a sample; fewer where the base takes no more.
        tolerance: of `tokens="auto"`: Jaccard distance to the masks of unlimited text that is expected.
        shape, form: of the samples; see `submodel.calibration.Budget`.
        seed: of the choice of text, and of whatever chance enters a score.
        data_dir: where named sets lie as SET/SPLIT.jsonl; the hub if None.
        skip_contamination: do not look for the problems of tasks in `data_dir` among the calibration text.
        check: measure the result on held-out text of its domain, against the base, where there is such text.
        routing: keep what the router needs of each domain's text as well.
        dry_run: only make the plan; no sub-model is written.
        dtype: of the arithmetic; bfloat16 where the processor has it, else float32.
        device: where to compute.
        batch_tokens: about how many tokens run at once in one worker (a core).
        trust_remote_code: run code that is shipped with the model.
        progress: told what is done, tokens done and in all; a token counts once per run of a block.
        say: told in a line what is planned, before it begins, and what is remarkable.

    Returns:
        The manifests, and the plan that they were made by.

    Raises:
        SubmodelError: an unknown name, options that exclude each other, text that is not there, or too little of it,
            not enough memory or disk, a name that is taken, a store of another base.
    """
    share_heap()
    removed = sparsity if isinstance(sparsity, RowSparsity | NM) else parse_sparsity(sparsity, pattern)
    parse(method or "wanda", allocation or UNIFORM, grid)
    wanted = _domains(domains, method, allocation, grid)
    if max_loss is not None or held_out is not None:
        _check_search(max_loss, held_out, len(wanted), sparsity is None and pattern is None, dry_run)
    bound = _vocabulary_bound(vocab, vocab_loss, max_loss)
    folder = _directory(data_dir)
    if isinstance(base, str):
        base = open_base(base, trust_remote_code)
    if Path(out).exists():  # else the digest of the weights can wait
        store.check_base(Path(out), base.identity)
    machine: dict[str, Any] = {"dtype": dtype, "device": device, "batch_tokens": batch_tokens}

    # text
    seq_len = min(seq_len, base.context or seq_len)
    auto = tokens == AUTO
    counted = None if auto or samples is not None else int(tokens or TOKENS)
    budget = Budget(seq_len, samples if samples is not None else 128, counted, seed, shape, form)
    settle = partial(_settle, base, Path(out), method, removed, tolerance, machine, progress) if auto else None
    read = calibrate_together(
        [one for one in wanted if isinstance(one, Domain)],
        base,
        budget,
        data_dir=folder,
        at_most=tokens is None and samples is None,
        settle=settle,
        skip_contamination=skip_contamination,
        say=say,
    )
    texts = {text.name: text for text in read}
    calibrated = [one if isinstance(one, Samples) else texts[one.name] for one in wanted]

    # masks
    chosen: dict[str, Any] = {"method": method, "allocation": allocation, "effort": effort, "grid": grid, "seed": seed}
    if max_loss is not None and held_out is not None:
        text = read_held_out(held_out, folder)
        pieces = as_much_as_there_is(text, base.tokenizer, _MOST_HELD_OUT, min(seq_len, 1024))
        opening = {"trust_remote_code": trust_remote_code, "routing": routing}
        return search(base, calibrated[0], pieces, Path(out), max_loss, say=say, **opening, **chosen, **machine)
    if bound is not None:
        chosen |= {"vocab_loss": bound, "vocabulary_texts": _vocabulary_texts(base, wanted, folder)}
    plan = make_plan(base, calibrated, sparsity=removed, **chosen, **machine)
    if dry_run:
        return Extraction(Path(out), {}, [], resumed_blocks=0, seconds=0.0, plan=plan)
    for line in plan.lines:
        say(line)
    unread = _unread(base, wanted, texts, folder) if check and checks.fits_memory(base) else {}
    what = f"extracting {', '.join(text.name for text in calibrated)}"
    return job.run(plan, Path(out), held_out=unread, routing=routing, progress=partial(progress, what))


def _domains(
    given: str | Domain | Samples | Sequence[str | Domain | Samples],
    method: str | None,
    allocation: str | None,
    grid: str | None,
) -> list[Domain | Samples]:
    """What the sub-models are for; a method that reads no text makes one that has its own name."""
    several = [given] if isinstance(given, str | Domain | Samples) else given
    result = [parse_domain(one) if isinstance(one, str) else one for one in several]
    if any(isinstance(one, Samples) or one.parts for one in result):
        return result
    if reads_text(method or "wanda", allocation or UNIFORM, grid):
        raise SubmodelError("no text to calibrate on: give --domain python, or --domain NAME=PATH for text of your own")
    return result or [Domain(method or "", ())]


def _check_search(
    max_loss: float | None, held_out: str | None, domains: int, is_sparsity_open: bool, dry_run: bool
) -> None:
    """What `max_loss` needs and excludes, before any text is read."""
    if max_loss is None:
        raise SubmodelError("--held-out is what --max-loss is measured on: give --max-loss NATS")
    check_bound(max_loss)
    if domains != 1 or held_out is None or not is_sparsity_open:
        raise SubmodelError("--max-loss: give one domain, --held-out TEXT, and no --sparsity or --pattern")
    if dry_run:
        raise SubmodelError("--max-loss tries several extractions, as many as it needs: give no --dry-run")


def _vocabulary_bound(vocab: str, loss: float | None, max_loss: float | None) -> float | None:
    """What a vocabulary may lose; None where all tokens are kept."""
    if vocab not in VOCABULARIES:
        raise unknown_name("vocabulary", vocab, VOCABULARIES)
    if vocab == "all":
        if loss is not None:
            raise SubmodelError("--vocab-loss is of --vocab domain: give both or neither")
        return None
    if max_loss is not None:
        raise SubmodelError("--max-loss with --vocab domain: find the sparsity first, then give it with --vocab domain")
    check_vocabulary_bound(DEFAULT_LOSS if loss is None else loss)
    return DEFAULT_LOSS if loss is None else loss


def _vocabulary_texts(
    base: Base, domains: Sequence[Domain | Samples], data_dir: Path | None
) -> dict[str, VocabularyText]:
    """The text that says which tokens each domain needs."""
    window = min(WINDOW, base.context or WINDOW)
    return {
        domain.name: read_vocabulary_text(domain, base.tokenizer, seq_len=window, data_dir=data_dir)
        for domain in domains
        if isinstance(domain, Domain) and domain.parts
    }


def _directory(data_dir: str | Path | None) -> Path | None:
    if data_dir is not None and not Path(data_dir).is_dir():
        raise SubmodelError(f"{data_dir}: no such directory")
    return Path(data_dir) if data_dir is not None else None


def _settle(
    base: Base,
    out: Path,
    method: str | None,
    sparsity: Sparsity,
    tolerance: float,
    machine: dict[str, Any],
    progress: Progress,
    texts: list[Samples],
) -> dict[str, TextCurve]:
    """How much text is enough; a store that another process writes to is refused before that is measured."""
    if (out / "store.json").exists():
        with store.Store(out).lock():
            pass
    method = method or "wanda"  # every effort begins with its masks
    settings = {"method": method, "sparsity": sparsity, "tolerance": tolerance, "progress": progress}
    return enough_text(base, texts, **settings, **machine)


def _unread(
    base: Base, domains: Sequence[Domain | Samples], texts: dict[str, Samples], data_dir: Path | None
) -> dict[str, Samples]:
    """Held-out text of every domain that has some, for the check at the end."""
    size = {"tokens": checks.TOKENS, "seq_len": min(checks.SEQ_LEN, base.context or checks.SEQ_LEN)}
    result: dict[str, Samples] = {}
    for domain in domains:
        if isinstance(domain, Domain):
            text = held_out_of(domain, texts[domain.name], base.tokenizer, **size, data_dir=data_dir)
            if text is not None:
                result[domain.name] = text
    return result
