"""A domain's text as token samples for one base."""

from pathlib import Path

from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Budget, Domain, Samples, load_domain
from submodel.calibration.constructors import domain as parse_domain
from submodel.calibration.packing import SEQ_LEN, TOKENS


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
