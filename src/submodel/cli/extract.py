"""submodel extract: derive one sub-model per domain."""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.cli import describe, options
from submodel.cli.console import Bar, say, show
from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.base.models import Base
    from submodel.calibration import Budget, Domain, Samples
    from submodel.calibration.domains import Reader
    from submodel.extract.job import Extraction
    from submodel.extract.plan import Plan

TOKENS, SEQ_LEN = 32768, 512  # of `calibration.packing`, which help must not wait for

DELETED = {
    "--minutes": "--effort quick, good or best, which does not depend on how fast the machine is",
    "--rate": "nothing in its place: one rate serves every model",
    "--openings": "nothing in its place: each method knows its own number",
    "--weighting": "nothing in its place: every token counts alike",
}
"""Options that evidence has removed (docs/results/settled.md) -> what to give instead."""


class _Deleted(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        option = self.option_strings[0]
        parser.error(f"{option} was removed (docs/results/settled.md): give {DELETED[option]}")


def add_options(p: argparse.ArgumentParser) -> None:
    """What a person needs first; all else is under "advanced"."""
    p.usage = (
        "submodel extract MODEL --domain D --out STORE [--sparsity S | --pattern N:M] [--effort E] [--tokens N] "
        "[--dry-run] [--json] [advanced]"
    )
    p.add_argument("model", metavar="MODEL", help="Hugging Face directory, hub id or .gguf file")
    p.add_argument(
        "--domain",
        action="append",
        default=[],
        metavar="D",
        help="what it is for: a named set (python, java, math, ...), NAME=PATH for a repository or a file of your own, "
        "NAME=python:2+java:1 for a mixture by tokens; give it several times for several sub-models",
    )
    p.add_argument("--out", required=True, metavar="STORE", help="the store; made if it is not there")
    p.add_argument("--sparsity", type=float, help="the fraction of the weights to remove (default: 0.5)")
    p.add_argument("--pattern", metavar="N:M", help="keep N of every M consecutive weights instead, such as 2:4")
    p.add_argument(
        "--effort",
        metavar="E",
        help="quick: Wanda, in minutes; good: the best that holds one block in memory; best: the best that there is "
        "for this machine's memory (default: good)",
    )
    p.add_argument(
        "--tokens",
        type=options.tokens,
        help=f"calibration tokens of every domain (default: {TOKENS}); auto: as many as Wanda's masks need to settle",
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and what it costs, and do nothing")

    for option in DELETED:
        p.add_argument(option, nargs="?", action=_Deleted, help=argparse.SUPPRESS)

    a = p.add_argument_group("advanced: text")
    a.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=PATH[:COLUMN]",
        help="a domain from own JSONL, parquet or text, or from a source tree (then COLUMN is its language)",
    )
    a.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    a.add_argument("--samples", type=int, help="a number of calibration samples, in place of --tokens")
    a.add_argument("--seq-len", type=int, default=SEQ_LEN, help=f"tokens a sample (default: {SEQ_LEN})")
    a.add_argument(
        "--tolerance",
        type=float,
        default=0.02,
        help="of --tokens auto: Jaccard distance to the masks of unlimited text that is expected (default: 0.02)",
    )
    a.add_argument("--shape", default="packed", help="packed, or document: a sample is one document (default: packed)")
    a.add_argument("--form", default="raw", help="raw, or fim: fill in the middle (default: raw)")
    a.add_argument("--seed", type=int, default=0, help="of the choice of text (default: 0)")
    a.add_argument(
        "--skip-contamination",
        action="store_true",
        help="do not look for the problems of tasks in --data-dir among the calibration text",
    )

    a = p.add_argument_group("advanced: method")
    a.add_argument(
        "--method",
        help="in place of --effort: magnitude, wanda, ria, swaps, pursuit or sparsegpt; +reconstruct fits the kept "
        "weights, +distil moves the mask by gradients of the whole model, +reconstruct+distil does both",
    )
    a.add_argument(
        "--allocation",
        help="how the sparsity is spread: uniform; rows, by the gradients of the dense model; marginal, by those of "
        "the sub-model (default: uniform, or what --effort takes)",
    )
    a.add_argument(
        "--grid",
        metavar="FORMAT",
        help="int8 or int4: give the kept weights values that this packed format holds exactly, each rounding made up "
        "for by others (default: packing rounds each weight to the nearest)",
    )
    a.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="find the highest sparsity at which --held-out loses no more than so many nats a token",
    )
    a.add_argument(
        "--held-out",
        metavar="TEXT",
        help="text of the domain that calibration does not see: PATH[:COLUMN], or SET/SPLIT such as python/test",
    )

    a.add_argument(
        "--vocab",
        choices=["all", "domain"],
        default="all",
        help="the tokens that it can say: all of the base's, or those that the domain needs (default: all)",
    )
    a.add_argument(
        "--vocab-loss",
        type=float,
        metavar="PART",
        help="of --vocab domain: what the domain's held-out text may lose of its bits a byte (default: 0.005)",
    )

    a = p.add_argument_group("advanced: result")
    a.add_argument("--name", action="append", default=[], help="a sub-model's name (default: its domain's)")
    a.add_argument("--no-check", action="store_true", help="do not measure the result on held-out text")
    a.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="MODEL",
        help="after a repository's extraction: how much better it fits the repository's held-out files than this",
    )
    a.add_argument("--no-routing", action="store_true", help="leave out what the router keeps of each domain's text")

    a = p.add_argument_group("advanced: machine")
    a.add_argument(
        "--dtype", choices=options.DTYPES, help="of the arithmetic (default: bfloat16 where the processor has it)"
    )
    a.add_argument("--batch-tokens", type=int, default=512, help="tokens at once on one core (default: 512)")
    options.add_running(a, moved=False)


def run(args: argparse.Namespace) -> None:
    """Read the options, calibrate, plan, extract, say what came of it."""
    from submodel.base.opening import open_base
    from submodel.base.workers import share_heap
    from submodel.extract.steps import parse
    from submodel.prune.sparsity import parse_sparsity

    share_heap()
    sparsity = parse_sparsity(args.sparsity, args.pattern)
    parse(args.method or "wanda", args.allocation or "uniform", args.grid)
    domains, readers = _domains(args)
    _check_together(args, len(domains))
    base = open_base(args.model, args.trust_remote_code)
    texts, budget = _calibrate(args, base, domains, readers, sparsity)
    _check_against(args, texts)
    settings = {
        "method": args.method,
        "allocation": args.allocation,
        "effort": args.effort,
        "grid": args.grid,
        "seed": args.seed,
        "dtype": options.dtype(args),
        "device": args.device,
        "batch_tokens": args.batch_tokens,
        **_vocabulary(args, base, domains, readers),
    }
    if args.max_loss is not None:
        result = _search(args, base, texts[0], budget.seq_len, settings)
    else:
        plan = _plan(args, base, texts, sparsity, settings)
        if args.dry_run:
            return
        result = _extract(args, plan, domains, texts, readers)
    _summary(args, result, budget.seq_len)


def _vocabulary(
    args: argparse.Namespace, base: "Base", domains: "list[Domain]", readers: "dict[str, Reader]"
) -> dict[str, Any]:
    """What `extract` is told of --vocab; nothing where all tokens are kept."""
    from submodel.calibration.vocabulary_text import SEQ_LEN as WINDOW
    from submodel.calibration.vocabulary_text import read_vocabulary_text
    from submodel.extract.vocabulary import DEFAULT_LOSS
    from submodel.prune.vocabulary.choose import check_bound

    if args.vocab == "all":
        if args.vocab_loss is not None:
            raise SubmodelError("--vocab-loss is of --vocab domain: give both or neither")
        return {}
    loss = DEFAULT_LOSS if args.vocab_loss is None else args.vocab_loss
    check_bound(loss)
    sources = {"readers": readers, "data_dir": options.directory(args.data_dir)}
    window = min(WINDOW, base.context or WINDOW)
    texts = {d.name: read_vocabulary_text(d, base.tokenizer, seq_len=window, **sources) for d in domains if d.parts}
    return {"vocab_loss": loss, "vocabulary_texts": texts}


def _domains(args: argparse.Namespace) -> "tuple[list[Domain], dict[str, Reader]]":
    """The domains that were asked for, and how to read the text of those that are no named sets."""
    from submodel.calibration import Domain, parse_domains
    from submodel.extract.steps import reads_text

    own = dict(_named(spec) for spec in args.calibration)
    if len(own) < len(args.calibration):
        raise SubmodelError(f"--calibration: two texts of one name ({', '.join(args.calibration)}): rename one")
    domains, readers = parse_domains(args.domain, own)
    method = args.method or "wanda"
    if not domains and not reads_text(method, args.allocation or "uniform", args.grid):
        domains = [Domain(method, ())]
    if not domains:
        raise SubmodelError("no text to calibrate on: give --domain python, or --domain NAME=PATH for text of your own")
    if args.name and len(args.name) != len(domains):
        raise SubmodelError(f"{len(args.name)} --name for {len(domains)} domains: give one each or none")
    if args.name:
        domains = [replace(domain, name=name) for domain, name in zip(domains, args.name, strict=True)]
    return domains, readers


def _calibrate(
    args: argparse.Namespace, base: "Base", domains: "list[Domain]", readers: "dict[str, Reader]", sparsity: Any
) -> "tuple[list[Samples], Budget]":
    """The text of every domain, as much as was asked for."""
    from submodel.calibration import Budget, Problems, load_domain
    from submodel.tasks.evaluate import problems_in

    data_dir = options.directory(args.data_dir)
    read = partial(load_domain, tokenizer=base.tokenizer, readers=readers, data_dir=data_dir)
    auto = args.tokens == options.AUTO
    tokens = None if auto or args.samples is not None else args.tokens or TOKENS
    samples = args.samples if args.samples is not None else 128
    seq_len = min(args.seq_len, base.context or args.seq_len)
    budget = Budget(seq_len, samples, tokens, args.seed, args.shape, args.form)
    if auto:
        texts, budget = _until_settled(args, base, budget, lambda b: [read(d, budget=b) for d in domains], sparsity)
    elif args.tokens is None and args.samples is None:
        texts, budget = _at_most(budget, lambda budget: [read(domain, budget=budget) for domain in domains])
    else:
        texts = [read(domain, budget=budget) for domain in domains]
    if data_dir and not args.skip_contamination:
        problems = Problems(problems_in(data_dir))
        texts = [replace(t, contamination=problems.overlaps(t.documents)) if t.documents else t for t in texts]
    return texts, budget


def _at_most(budget: "Budget", read: "Callable[[Budget], list[Samples]]") -> "tuple[list[Samples], Budget]":
    """All domains within a budget, or within as many samples as the shortest of their texts fills; says so."""
    from submodel.calibration import TooLittleText

    while True:
        try:
            return read(budget), budget
        except TooLittleText as short:
            if short.samples < 2:
                raise
            say(f"{short.path}: enough for {short.samples} samples, not {budget.count}: no domain gets more")
            budget = replace(budget, samples=short.samples, tokens=None)


def _until_settled(
    args: argparse.Namespace,
    base: "Base",
    budget: "Budget",
    read: "Callable[[Budget], list[Samples]]",
    sparsity: Any,
) -> "tuple[list[Samples], Budget]":
    """As much text as the masks of each domain need; a store that another process writes to is refused before."""
    from submodel.extract.enough_text import enough_text
    from submodel.store import Store

    if (Path(args.out) / "store.json").exists():
        with Store(Path(args.out)).lock():
            pass
    texts, budget = _at_most(budget, read)
    with Bar("settling", "tokens") as bar:
        curves = enough_text(
            base,
            texts,
            method=args.method or "wanda",  # whose masks every effort begins with
            sparsity=sparsity,
            tolerance=args.tolerance,
            dtype=options.dtype(args),
            device=args.device,
            batch_tokens=args.batch_tokens,
            progress=bar.named,
        )
    for name, curve in curves.items():
        if not curve.is_settled:
            say(f"{name}: not settled: {describe.settled(curve.as_dict())}; all {len(texts[0].ids)} samples are used")
    if all(curve.is_settled for curve in curves.values()):
        budget = replace(budget, samples=max(curve.samples[-1] for curve in curves.values()))
        texts = read(budget)
    return [replace(text, settling=curves[text.name].as_dict()) for text in texts], budget


def _check_together(args: argparse.Namespace, domains: int) -> None:
    """Options that need or exclude each other, before any text is read."""
    from submodel.extract.bound import check_bound

    if args.max_loss is None:
        if args.held_out is not None:
            raise SubmodelError("--held-out is what --max-loss is measured on: give --max-loss NATS")
        return
    check_bound(args.max_loss)
    if args.vocab != "all":
        raise SubmodelError("--max-loss with --vocab domain: find the sparsity first, then give it with --vocab domain")
    if domains != 1 or args.held_out is None or args.sparsity is not None or args.pattern is not None:
        raise SubmodelError("--max-loss: give one domain, --held-out TEXT, and no --sparsity or --pattern")
    if args.dry_run:
        raise SubmodelError("--max-loss tries several extractions, as many as it needs: give no --dry-run")


def _plan(
    args: argparse.Namespace, base: "Base", texts: "list[Samples]", sparsity: Any, settings: dict[str, Any]
) -> "Plan":
    """The plan, said before any work begins; with --dry-run it is the result."""
    from submodel.extract.plan import make_plan

    plan = make_plan(base, texts, sparsity=sparsity, **settings)
    if args.dry_run:
        show(args, plan.as_dict(), plan.lines)
    else:
        for line in plan.lines:
            say(line)
    return plan


def _extract(
    args: argparse.Namespace,
    plan: "Plan",
    domains: "list[Domain]",
    texts: "list[Samples]",
    readers: "dict[str, Reader]",
) -> "Extraction":
    from submodel.calibration.held_out import held_out
    from submodel.extract import check, job

    base, checked = plan.job.base, {}
    if not args.no_check and check.fits_memory(base):
        size = {"tokens": check.TOKENS, "seq_len": min(check.SEQ_LEN, base.context or check.SEQ_LEN)}
        sources = {"readers": readers, "data_dir": options.directory(args.data_dir)}
        for domain, text in zip(domains, texts, strict=True):
            if (samples := held_out(domain, text, base.tokenizer, **size, **sources)) is not None:
                checked[text.name] = samples
    with Bar(f"extracting {', '.join(text.name for text in texts)}", "tokens") as bar:
        routing = not args.no_routing
        return job.run(plan, Path(args.out), held_out=checked, routing=routing, progress=bar.update)


def _search(
    args: argparse.Namespace, base: "Base", text: "Samples", seq_len: int, settings: dict[str, Any]
) -> "Extraction":
    """The highest sparsity that `--max-loss` allows."""
    from submodel.calibration import read_held_out
    from submodel.extract.bound import search
    from submodel.tasks.perplexity import as_much_as_there_is

    held_out = read_held_out(args.held_out, options.directory(args.data_dir))
    samples = as_much_as_there_is(held_out, base.tokenizer, 50_000, min(seq_len, 1024))
    trust, routing = args.trust_remote_code, not args.no_routing
    return search(
        base,
        text,
        samples,
        Path(args.out),
        args.max_loss,
        say=say,
        trust_remote_code=trust,
        routing=routing,
        **settings,
    )


def _summary(args: argparse.Namespace, result: "Extraction", seq_len: int) -> None:
    """What was made, what it lost, and what to do next."""
    from submodel.api.information import info
    from submodel.extract.check import Check

    lines: list[str] = []
    if result.resumed_blocks:
        lines.append(f"went on after {result.resumed_blocks} blocks of an earlier run")
    for name, manifest in result.manifests.items():
        for expert in manifest["unseen_experts"]:
            say(f"{name}: no calibration token reached {expert}: pruned by magnitude")
        for line in describe.overlapping(manifest):
            say(f"{name}: {line}")
        reference = f"{args.out}@{name}"
        about = info(reference)
        lines.append(f"{reference}: " + ("there already" if name in result.already else describe.size(about)))
        lines += [f"  {line}" for line in (describe.memory(about), describe.share_removed(about)) if line]
        lines += [f"  {line}" for line in describe.vocabulary(manifest)]
        if "check" in manifest:
            lines.append(f"  {Check(**manifest['check']).line}")
        elif manifest["calibration"] and not args.no_check:
            lines.append("  not measured: no text of the domain is held out, or the base does not fit into memory")
    document = {"seconds": result.seconds, "already": result.already, "resumed_blocks": result.resumed_blocks}
    if args.against:
        document["fit"] = _fits(args, result.manifests, seq_len, lines)
    lines.append(f"next: submodel generate {args.out}@{next(iter(result.manifests))} --prompt '...'")
    show(args, {"submodels": result.manifests, **document}, lines)


def _fits(args: argparse.Namespace, manifests: dict[str, Any], seq_len: int, lines: list[str]) -> dict[str, Any]:
    """Measure every sub-model of a repository on its held-out files against `--against`; says it in `lines`."""
    from submodel.calibration import parts_of
    from submodel.tasks.fit import fit

    result: dict[str, Any] = {}
    for name, manifest in manifests.items():
        for part in parts_of(manifest["calibration"]):
            if "repository" in part:
                repository = ":".join(filter(None, (part["path"], part["column"])))
                models = [*args.against, f"{args.out}@{name}", args.model]
                machine = {"device": args.device, "trust_remote_code": args.trust_remote_code}
                with Bar("", "tokens") as bar:
                    fits = fit(models, repository, seq_len=min(seq_len, 1024), progress=bar.named, **machine)
                result[f"{name} {repository}"] = [asdict(one) for one in fits]
                tokens = fits[0].perplexity.tokens
                lines.append(f"on {tokens:,} held-out tokens of {repository}, against {models[0]}:")
                lines += [f"  {one.line}" for one in fits]
    return result


def _named(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    if not equals or not name or not path:
        raise SubmodelError(f"--calibration {spec!r}: give NAME=PATH[:COLUMN]")
    return name, path


def _check_against(args: argparse.Namespace, texts: "list[Samples]") -> None:
    """Raises SubmodelError when what the new sub-models are to be compared with is not there, or there is nothing to
    compare them on."""
    from submodel.base.opening import open_base
    from submodel.runtime.packed.checkpoint import is_packed
    from submodel.store import Store, split_reference

    if args.against and not any("repository" in part for text in texts for part in text.parts):
        raise SubmodelError(f"--against {args.against[0]}: compares on a repository: give one as --domain NAME=PATH")
    for reference in args.against:
        parts = split_reference(reference)
        if parts is None:
            if not is_packed(reference):
                open_base(reference, args.trust_remote_code)
        elif parts[0].resolve() != Path(args.out).resolve() or parts[1] not in [text.name for text in texts]:
            Store(parts[0]).manifest(parts[1])
