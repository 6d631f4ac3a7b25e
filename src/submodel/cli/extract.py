"""submodel extract: derive one sub-model per domain."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.cli import describe, options
from submodel.cli.console import Bar, say, show
from submodel.cli.extract_options import add_options
from submodel.errors import SubmodelError

if TYPE_CHECKING:
    from submodel.calibration import Domain
    from submodel.extract.job import Extraction

__all__ = ["add_options", "run"]

_PASSED_ON = (  # options that are arguments of `submodel.extract`, by the same names
    *("sparsity", "pattern", "effort", "tokens", "method", "allocation", "grid", "max_loss", "held_out"),
    *("samples", "seq_len", "tolerance", "shape", "form", "seed", "data_dir", "skip_contamination"),
    *("vocab", "vocab_loss", "dry_run", "device", "batch_tokens", "trust_remote_code"),
)


def run(args: argparse.Namespace) -> None:
    """Derive the sub-models, then say what came of it."""
    from submodel.api.extraction import extract

    domains = _domains(args)
    _check_against(args, domains)
    with Bar("reading", "tokens") as bar:
        result = extract(
            args.model,
            domains,
            args.out,
            **{name: getattr(args, name) for name in _PASSED_ON},
            check=not args.no_check,
            routing=not args.no_routing,
            dtype=options.dtype(args),
            progress=bar.named,
            say=say,
        )
    if args.dry_run and result.plan is not None:
        show(args, result.plan.as_dict(), result.plan.lines)
    else:
        _summary(args, result)


def _domains(args: argparse.Namespace) -> "list[Domain]":
    """The domains that were asked for, under the names that were."""
    from submodel.calibration import Domain, parse_domains

    texts = dict(_named(spec) for spec in args.calibration)
    if len(texts) < len(args.calibration):
        raise SubmodelError(f"--calibration: two texts of one name ({', '.join(args.calibration)}): rename one")
    domains = parse_domains(args.domain, texts)
    names = [domain.name for domain in domains]
    if args.name and len(args.name) != max(1, len(domains)):
        raise SubmodelError(f"{len(args.name)} --name for {len(domains)} domains: give one each or none")
    if args.name and not domains:
        return [Domain(args.name[0], ())]  # of a method that reads no text
    return [replace(domain, name=name) for domain, name in zip(domains, args.name or names, strict=True)]


def _summary(args: argparse.Namespace, result: "Extraction") -> None:
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
    document: dict[str, Any] = {
        "submodels": result.manifests,
        "seconds": result.seconds,
        "already": result.already,
        "resumed_blocks": result.resumed_blocks,
    }
    if args.against:
        if not args.json:  # the comparison takes its time
            print("\n".join(lines), flush=True)
            lines = []
        document["fit"] = _fits(args, result.manifests, lines)
    lines.append(f"next: submodel generate {args.out}@{next(iter(result.manifests))} --prompt '...'")
    show(args, document, lines)


def _fits(args: argparse.Namespace, manifests: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """Measure every sub-model of a repository on its held-out files against `--against`; says it in `lines`."""
    from submodel.calibration import parts_of
    from submodel.tasks.fit import fit, tokens_to_compare

    result: dict[str, Any] = {}
    for name, manifest in manifests.items():
        seq_len = min(manifest["calibration"]["seq_len"], 1024)
        for part in parts_of(manifest["calibration"]):
            if "repository" in part:
                repository = ":".join(filter(None, (part["path"], part["column"])))
                models = [*args.against, f"{args.out}@{name}", args.model]
                settings: dict[str, Any] = {
                    "tokens": tokens_to_compare(manifest["calibration"]["tokens"]),
                    "seq_len": seq_len,
                    "device": args.device,
                    "trust_remote_code": args.trust_remote_code,
                    "data_dir": options.directory(args.data_dir),
                }
                with Bar("", "tokens") as bar:
                    fits = fit(models, repository, progress=bar.named, say=say, **settings)
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


def _check_against(args: argparse.Namespace, domains: "list[Domain]") -> None:
    """Raises SubmodelError when what the new sub-models are to be compared with is not there, or there is nothing to
    compare them on."""
    from submodel.base.opening import open_base
    from submodel.runtime.packed.checkpoint import is_packed
    from submodel.store import Store, split_reference

    if args.against and not any(text.is_repository for domain in domains for text in domain.texts):
        raise SubmodelError(f"--against {args.against[0]}: compares on a repository: give one as --domain NAME=PATH")
    for reference in args.against:
        parts = split_reference(reference)
        if parts is None:
            if not is_packed(reference):
                open_base(reference, args.trust_remote_code)
        elif parts[0].resolve() != Path(args.out).resolve() or parts[1] not in [domain.name for domain in domains]:
            Store(parts[0]).manifest(parts[1])
