"""The verb that makes sub-models: extract."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.cli import options
from submodel.cli.console import Bar, say, show
from submodel.cli.describe import overlapping, settled, size
from submodel.errors import SubmodelError, unknown_name

if TYPE_CHECKING:
    from submodel.base.models import Base
    from submodel.calibration import Budget, Samples
    from submodel.extract.enough_text import Settling
    from submodel.prune.sparsity import Pattern


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `extract`."""
    p.add_argument("model", metavar="MODEL", help="Hugging Face directory, hub id or .gguf file")
    p.add_argument("--out", required=True, metavar="STORE", help="the store; made if it is not there")
    p.add_argument(
        "--domain",
        action="append",
        default=[],
        metavar="D",
        help="a domain: python, c4, ..., a name of --calibration, or NAME=PART[:WEIGHT]+... for a mixture by tokens, "
        "such as coder=python:2+java:1, or NAME=PATH[:LANGUAGE] for a repository "
        "(default: all of --calibration; docs/calibration.md lists the sets)",
    )
    p.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=PATH[:COLUMN]",
        help="a domain from own JSONL, parquet or text, or from a source tree (then COLUMN is its language)",
    )
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    p.add_argument(
        "--skip-contamination",
        action="store_true",
        help="do not look for the problems of tasks in --data-dir among the calibration text",
    )
    p.add_argument("--name", action="append", default=[], help="a sub-model's name (default: its domain's)")
    p.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="MODEL",
        help="after a repository's extraction: how much better it fits the repository's held-out files than this",
    )
    p.add_argument(
        "--method",
        default="wanda",
        help="magnitude, wanda, ria, swaps, pursuit or sparsegpt; +distil after wanda, ria, swaps or pursuit moves the "
        "mask by gradients of the whole model; +reconstruct fits the kept weights, before +distil or after it; auto: "
        "the best of those that leave weights as they are (default: wanda)",
    )
    p.add_argument("--minutes", type=float, metavar="M", help="what --method auto may take (default: any time)")
    p.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="find the highest sparsity at which --held-out loses no more than so many nats a token",
    )
    p.add_argument(
        "--held-out",
        metavar="TEXT",
        help="text of the domain that calibration does not see: PATH[:COLUMN], or SET/SPLIT such as python/test",
    )
    p.add_argument("--sparsity", type=float, help="fraction of every row to remove (default: 0.5)")
    p.add_argument(
        "--allocation",
        help="how the sparsity is spread: uniform; by the model's loss, with the whole model in memory, over its rows: "
        "rows, over rows and matrices as the sub-model itself shows: marginal, or over each block's attention and MLP: "
        "loss; over blocks by a walk: owl or error (default: uniform, of --method auto what its method gains by)",
    )
    p.add_argument(
        "--openings",
        type=int,
        metavar="N",
        help="one-token samples beside the text, as what a sequence may open with (default: swaps and pursuit 4096, "
        "others none)",
    )
    p.add_argument(
        "--rate",
        type=float,
        help="of METHOD+distil: how far a first step moves the scores, in units of a row's mean (default: 0.0025)",
    )
    p.add_argument(
        "--grid",
        metavar="FORMAT",
        help="int8 or int4: give the kept weights values that this packed format holds exactly, each rounding made up "
        "for by others (default: packing rounds each weight to the nearest)",
    )
    p.add_argument("--pattern", metavar="N:M", help="keep N of every M consecutive weights, such as 2:4")
    p.add_argument("--samples", type=int, default=128, help="calibration samples (default: 128)")
    p.add_argument("--seq-len", type=int, default=2048, help="tokens a sample (default: 2048)")
    p.add_argument(
        "--tokens",
        type=options.tokens,
        help="token budget of every domain, instead of --samples; auto: doubled until the masks have settled, "
        "--samples at most",
    )
    p.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        help="of --tokens auto: Jaccard distance to the masks of unlimited text that is expected (default: 0.02)",
    )
    p.add_argument(
        "--shape", default="packed", help="packed, or document: each sample is one document (default: packed)"
    )
    p.add_argument(
        "--form", default="raw", help="raw, chat: the model's template, or fim: fill in the middle (default: raw)"
    )
    p.add_argument("--weighting", default="token", help="what counts alike: every token or document (default: token)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of text (default: 0)")
    p.add_argument(
        "--dtype", choices=options.DTYPES, help="of the arithmetic (default: bfloat16 where the processor has it)"
    )
    p.add_argument("--no-routing", action="store_true", help="leave out what the router keeps of each domain's text")
    p.add_argument("--batch-tokens", type=int, default=512, help="tokens at once on one core (default: 512)")
    options.add_running(p, moved=False)


def run(args: argparse.Namespace) -> None:
    import torch

    from submodel.api.information import info
    from submodel.base.models import open_base
    from submodel.base.workers import share_heap
    from submodel.calibration import Budget, Domain, Problems, load_domain, parse_domains
    from submodel.extract.auto import AUTO, check_method, needs_text
    from submodel.extract.bound import search
    from submodel.extract.job import extract
    from submodel.prune.sparsity import parse_pattern
    from submodel.runtime.packed.formats import grid_of
    from submodel.tasks.evaluate import problems_in

    share_heap()
    pattern = parse_pattern(args.sparsity, args.pattern)
    check_method(args.method, args.minutes)
    if args.grid is not None:
        grid_of(args.grid)
    own = dict(_named(spec) for spec in args.calibration)
    if len(own) < len(args.calibration):
        raise SubmodelError(f"--calibration: two texts of one name ({', '.join(args.calibration)}): rename one")
    data_dir = options.directory(args.data_dir)
    wanted, readers = parse_domains(args.domain, own)
    if not needs_text(args.method, args.grid) and not wanted:
        wanted = [Domain(args.method, ())]
    if not wanted:
        raise SubmodelError(
            f"{args.method} needs text to calibrate on: give --domain python or --calibration NAME=PATH[:COLUMN]"
        )
    if args.name and len(args.name) != len(wanted):
        raise SubmodelError(f"{len(args.name)} --name for {len(wanted)} domains: give one each or none")
    if args.name:
        wanted = [replace(domain, name=name) for domain, name in zip(wanted, args.name, strict=True)]
    auto = args.tokens == options.AUTO
    _check_together(args, len(wanted))
    base = open_base(args.model, args.trust_remote_code)
    longest = base.context or args.seq_len
    tokens = None if auto else args.tokens
    budget = Budget(min(args.seq_len, longest), args.samples, tokens, args.seed, args.shape, args.form, args.weighting)
    read = partial(load_domain, tokenizer=base.tokenizer, readers=readers, data_dir=data_dir)
    if auto:
        domains, budget = _at_most(budget, lambda budget: [read(domain, budget=budget) for domain in wanted])
        curves = _settle(args, base, domains, pattern)
        if all(curve.is_settled for curve in curves.values()):
            budget = replace(budget, samples=max(curve.samples[-1] for curve in curves.values()))
            domains = [read(domain, budget=budget) for domain in wanted]
        domains = [replace(domain, settling=curves[domain.name].as_dict()) for domain in domains]
    else:
        domains = [read(domain, budget=budget) for domain in wanted]
    if data_dir and not args.skip_contamination:
        problems = Problems(problems_in(data_dir))
        domains = [replace(d, contamination=problems.overlaps(d.documents)) if d.documents else d for d in domains]
    _check_against(args, domains)
    settings: dict[str, Any] = {
        "method": args.method,
        "minutes": args.minutes,
        "allocation": args.allocation,
        "openings": args.openings,
        "rate": args.rate,
        "grid": args.grid,
        "dtype": getattr(torch, args.dtype) if args.dtype else None,
        "device": args.device,
        "batch_tokens": args.batch_tokens,
        "routing": not args.no_routing,
    }
    if args.max_loss is None:
        with Bar(f"extracting {', '.join(d.name for d in domains)}", "tokens") as bar:
            result = extract(base, domains, Path(args.out), pattern=pattern, progress=bar.update, **settings)
    else:
        held_out = _held_out(args, base, budget.seq_len)
        result = search(
            base,
            domains[0],
            held_out,
            Path(args.out),
            args.max_loss,
            say=say,
            trust_remote_code=args.trust_remote_code,
            **settings,
        )
    for name, manifest in result.manifests.items():
        for expert in manifest["unseen_experts"]:
            say(f"{name}: no calibration token reached {expert}: pruned by magnitude")
        for line in overlapping(manifest):
            say(f"{name}: {line}")
    if args.method == AUTO:
        for why in dict.fromkeys(m["auto"]["why"] for m in result.manifests.values() if "auto" in m):
            say(f"{AUTO}: {why}")
    lines = [
        f"{args.out}@{name}: {'there already' if name in result.already else size(info(f'{args.out}@{name}'))}"
        for name in result.manifests
    ]
    if result.resumed_blocks:
        lines.insert(0, f"went on after {result.resumed_blocks} blocks of an earlier run")
    about = {"seconds": result.seconds, "already": result.already, "resumed_blocks": result.resumed_blocks}
    if args.against:
        about["fit"] = _fit(args, result.manifests, budget.seq_len, lines)
    show(args, {"submodels": result.manifests, **about}, lines)


def _at_most(budget: "Budget", read: "Callable[[Budget], list[Samples]]") -> "tuple[list[Samples], Budget]":
    """All domains within a budget, or within as many samples as the shortest of their texts fills; says so."""
    from submodel.calibration import TooLittleText

    while True:
        try:
            return read(budget), budget
        except TooLittleText as short:
            if short.samples < 2:
                raise
            say(f"{short.path}: enough for {short.samples} samples, not {budget.samples}: no domain gets more")
            budget = replace(budget, samples=short.samples)


def _settle(
    args: argparse.Namespace, base: "Base", domains: "list[Samples]", pattern: "Pattern"
) -> "dict[str, Settling]":
    """How much text is enough for each domain; says it. A store that another process writes to is refused before."""
    import torch

    from submodel.extract.enough_text import settle
    from submodel.store import Store

    if (Path(args.out) / "store.json").exists():
        with Store(Path(args.out)).lock():
            pass
    with Bar("settling", "tokens") as bar:
        curves = settle(
            base,
            domains,
            method=args.method,
            pattern=pattern,
            tolerance=args.tolerance,
            dtype=getattr(torch, args.dtype) if args.dtype else None,
            device=args.device,
            batch_tokens=args.batch_tokens,
            progress=bar.named,
        )
    for name, curve in curves.items():
        if not curve.is_settled:
            say(f"{name}: not settled: {settled(curve.as_dict())}; all {len(domains[0].ids)} samples are used")
    return curves


def _check_together(args: argparse.Namespace, domains: int) -> None:
    """Options that need or exclude each other, before any text is read."""
    from submodel.extract.auto import AUTO
    from submodel.extract.bound import check_bound
    from submodel.prune.allocate.allocation import ALLOCATIONS, UNIFORM

    if args.method == AUTO and args.tokens == options.AUTO:
        raise SubmodelError("--tokens auto measures masks of norms: give a method such as wanda, or --tokens N")
    if args.tokens == options.AUTO and (args.allocation or UNIFORM) not in ALLOCATIONS:
        raise unknown_name("allocation", args.allocation, ALLOCATIONS)
    if args.max_loss is None:
        if args.held_out is not None:
            raise SubmodelError("--held-out is what --max-loss is measured on: give --max-loss NATS")
        return
    check_bound(args.max_loss)
    if domains != 1 or args.held_out is None or args.sparsity is not None or args.pattern is not None:
        raise SubmodelError("--max-loss: give one domain, --held-out TEXT, and no --sparsity or --pattern")
    if args.minutes is not None:
        raise SubmodelError("--max-loss: several extractions are tried: give a --method instead of --minutes")


def _held_out(args: argparse.Namespace, base: "Base", seq_len: int) -> "Samples":
    """The text that `--max-loss` is measured on."""
    from submodel.calibration import read_held_out
    from submodel.tasks.perplexity import as_much_as_there_is

    text = read_held_out(args.held_out, options.directory(args.data_dir))
    return as_much_as_there_is(text, base.tokenizer, 50_000, min(seq_len, 1024))


def _check_against(args: argparse.Namespace, domains: "list[Samples]") -> None:
    """Raises SubmodelError when what the new sub-models are to be compared with is not there, or there is nothing to
    compare them on."""
    from submodel.base.models import open_base
    from submodel.runtime.packed.checkpoint import is_packed
    from submodel.store import Store, split_reference

    if args.against and not any("repository" in part for d in domains for part in d.parts):
        raise SubmodelError(f"--against {args.against[0]}: compares on a repository: give one as --domain NAME=PATH")
    for reference in args.against:
        parts = split_reference(reference)
        if parts is None:
            if not is_packed(reference):
                open_base(reference, args.trust_remote_code)
        elif parts[0].resolve() != Path(args.out).resolve() or parts[1] not in [d.name for d in domains]:
            Store(parts[0]).manifest(parts[1])


def _fit(args: argparse.Namespace, manifests: dict[str, Any], seq_len: int, lines: list[str]) -> dict[str, Any]:
    """Measure every sub-model of a repository on its held-out files; says it in `lines`."""
    from submodel.calibration import parts_of
    from submodel.tasks.fit import fit

    found: dict[str, Any] = {}
    for name, manifest in manifests.items():
        for part in parts_of(manifest["calibration"]):
            if "repository" in part:
                where = ":".join(filter(None, (part["path"], part["column"])))
                models = [*args.against, f"{args.out}@{name}", args.model]
                with Bar("", "tokens") as bar:
                    fits = fit(
                        models,
                        where,
                        seq_len=min(seq_len, 1024),
                        device=args.device,
                        trust_remote_code=args.trust_remote_code,
                        progress=bar.named,
                    )
                found[f"{name} {where}"] = [asdict(one) for one in fits]
                lines.append(f"on {fits[0].perplexity.tokens:,} held-out tokens of {where}, against {models[0]}:")
                lines += [f"  {one.line}" for one in fits]
    return found


def _named(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    if not equals or not name or not path:
        raise SubmodelError(f"--calibration {spec!r}: give NAME=PATH[:COLUMN]")
    return name, path
