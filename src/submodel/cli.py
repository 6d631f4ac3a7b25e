"""The command line: a verb parses its options, calls one public function and prints.

Everything that takes a model takes a Hugging Face directory, a hub id, a .gguf file or STORE@NAME. With --json exactly
one JSON document goes to standard output; progress and messages go to standard error. Exit status 0: done; 2: wrong
use or bad input, said in one line; 1: a defect.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from submodel.errors import SubmodelError, unknown_name

if TYPE_CHECKING:
    from submodel.calibration import Samples
    from submodel.models import Base
    from submodel.tasks.rows import Row

_DTYPES = ("bfloat16", "float16", "float32")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _extract(args: argparse.Namespace) -> None:
    import torch

    from submodel.models import open_base
    from submodel.prune import METHODS
    from submodel.prune.extract import extract
    from submodel.prune.select import parse_pattern

    pattern = parse_pattern(args.sparsity, args.pattern)
    if args.method not in METHODS:
        raise unknown_name("method", args.method, METHODS)
    own = dict(_named(spec) for spec in args.calibration)
    wanted = args.domain or list(own)
    for name in wanted:
        if name not in own:
            raise SubmodelError(
                f"unknown domain {name!r}: allowed are {', '.join(sorted(own)) or 'none yet'}; "
                "give its text with --calibration NAME=PATH[:COLUMN]"
            )
    if METHODS[args.method].statistic is None and not wanted:
        wanted = [args.method]
    if not wanted:
        raise SubmodelError(f"{args.method} needs text to calibrate on: give --calibration NAME=PATH[:COLUMN]")
    if args.name and len(args.name) != len(wanted):
        raise SubmodelError(f"{len(args.name)} --name for {len(wanted)} domains: give one each or none")
    base = open_base(args.model, args.trust_remote_code)
    domains = [
        _samples(base, name, own.get(domain), args) for name, domain in zip(args.name or wanted, wanted, strict=True)
    ]
    with _Bar(f"extracting {', '.join(d.name for d in domains)}", "tokens") as bar:
        result = extract(
            base,
            domains,
            Path(args.out),
            method=args.method,
            pattern=pattern,
            allocation=args.allocation,
            openings=args.openings,
            dtype=getattr(torch, args.dtype) if args.dtype else None,
            device=args.device,
            batch_tokens=args.batch_tokens,
            progress=bar.update,
        )
    for name, manifest in result.manifests.items():
        for expert in manifest["unseen_experts"]:
            _say(f"{name}: no calibration token reached {expert}: pruned by magnitude")
    lines = [
        f"{args.out}@{name}: there already" if name in result.already else f"{args.out}@{name}: {_size(args.out, name)}"
        for name in result.manifests
    ]
    if result.resumed_blocks:
        lines.insert(0, f"went on after {result.resumed_blocks} blocks of an earlier run")
    run = {"seconds": result.seconds, "already": result.already, "resumed_blocks": result.resumed_blocks}
    _print(args, {"submodels": result.manifests, **run}, lines)


def _samples(base: "Base", name: str, spec: str | None, args: argparse.Namespace) -> "Samples":
    import torch

    from submodel.calibration import Samples, load_samples

    if spec is None:
        return Samples(name, torch.empty(0, 0, dtype=torch.int64))
    longest = getattr(base.config.get_text_config(), "max_position_embeddings", args.seq_len)
    seq_len = min(args.seq_len, longest)
    samples = args.samples if args.tokens is None else max(1, args.tokens // seq_len)
    return load_samples(name, spec, base.tokenizer, samples=samples, seq_len=seq_len, seed=args.seed)


def _size(store: str, name: str) -> str:
    from submodel.store import Store

    opened = Store(Path(store))
    manifest = opened.manifest(name)
    weights = sum(_count(entry["shape"]) for entry in manifest["matrices"].values())
    size = opened.size_bytes(name)
    against = manifest["masks"]["reference"]
    own = ", own weights" if "weights" in manifest else ""
    sparsity = f"{manifest['sparsity']:g}" + (f" by {manifest['allocation']}" if "allocation" in manifest else "")
    return (
        f"{manifest['method']}, sparsity {sparsity}, {manifest['pattern']}, {size / 1e6:.1f} MB on disk, "
        f"{8 * size / weights:.3f} bits a weight{f' against {against}' if against else ''}{own}"
    )


def _count(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _list(args: argparse.Namespace) -> None:
    from submodel.store import Store

    store = Store(Path(args.store))
    lines = [f"base {store.base['reference']}, {store.base['size_bytes'] / 1e6:.1f} MB"]
    lines += [f"{name}: {_size(args.store, name)}" for name in store.names]
    sizes = {name: store.size_bytes(name) for name in store.names}
    _print(args, {"base": store.base, "submodels": sizes}, lines)


def _info(args: argparse.Namespace) -> None:
    from submodel.store import Store, split_reference

    parts = split_reference(args.model)
    if parts is None:
        raise SubmodelError(f"{args.model}: give STORE@NAME")
    store = Store(parts[0])
    manifest = store.manifest(parts[1])
    calibration = manifest["calibration"]
    lines = [_size(str(parts[0]), parts[1]), f"base: {store.base['reference']}, weights {store.base['sha256'][:16]}"]
    if calibration:
        lines.append(
            f"calibration: {calibration['path']}{':' + calibration['column'] if calibration['column'] else ''}, "
            f"{calibration['samples']} x {calibration['seq_len']} = {calibration['tokens']:,} tokens of "
            f"{calibration['documents']} documents ({calibration['split']}), seed {calibration['seed']}, "
            f"token digest {calibration['sha256_tokens'][:16]}"
        )
    removed = [entry["sparsity"] for entry in manifest["matrices"].values()]
    lines.append(f"{len(removed)} matrices, achieved sparsity {min(removed):.4f} to {max(removed):.4f}")
    lines.append(f"masks {manifest['masks']['sha256'][:16]}, made {manifest['created'][:19]} in {manifest['dtype']}")
    lines += [f"no calibration token reached {expert}" for expert in manifest["unseen_experts"]]
    _print(args, {**manifest, "size_bytes": store.size_bytes(parts[1])}, lines)


def _verify(args: argparse.Namespace) -> None:
    from submodel.prune.verify import verify

    found = verify(Path(args.store), args.base)
    _print(args, {"checked": dict(found)}, [f"{what}: {result}" for what, result in found])


def _export(args: argparse.Namespace) -> None:
    from submodel.export import export_directory
    from submodel.runtime.load import open_store_base
    from submodel.store import Store, split_reference

    parts = split_reference(args.model)
    if parts is None:
        raise SubmodelError(f"{args.model}: give STORE@NAME")
    store = Store(parts[0])
    base = open_store_base(store, args.base, args.trust_remote_code)
    export_directory(base, store.masks(parts[1]), Path(args.out), args.format, store.manifest(parts[1]))
    _print(args, {"out": args.out}, [f"{args.out}: {args.model} as {args.format}"])


def _eval(args: argparse.Namespace) -> None:
    import torch

    from submodel.report import table
    from submodel.tasks import evaluate, parse_task
    from submodel.tasks.evaluate import Settings
    from submodel.tasks.rows import read_rows

    tasks = [parse_task(spec) for spec in args.task]
    settings = Settings(
        tokens=args.tokens,
        seq_len=args.seq_len,
        seed=args.seed,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        device=args.device,
        limit=args.limit,
        data_dir=_directory(args.data_dir),
        samples=args.samples,
        ks=_whole_numbers("--k", args.k),
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        chat=args.chat,
        slots=args.slots,
        unsafe_code=args.unsafe_code,
        wordnet=_directory(args.wordnet),
        weight_format=args.format,
    )
    out = Path(args.out)
    already: dict[str, Row] = {}
    with _Bar("", "") as bar:
        rows = list(
            evaluate(
                args.model,
                tasks,
                out,
                settings,
                base=args.base,
                trust_remote_code=args.trust_remote_code,
                progress=bar.named,
                say=_say,
                already=lambda row: already.update({row.key: row}),
            )
        )
    found = {"rows": [row.__dict__ for row in rows], "already": [row.__dict__ for row in already.values()]}
    _print(args, found, [table(read_rows(out))])


def _directory(given: str | None) -> Path | None:
    if given is not None and not Path(given).is_dir():
        raise SubmodelError(f"{given}: no such directory")
    return Path(given) if given is not None else None


def _whole_numbers(option: str, given: str | None) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in given.split(",")})) if given else ()
    except ValueError as error:
        raise SubmodelError(f"{option} {given!r}: give whole numbers with commas, such as 1,10") from error


def _report(args: argparse.Namespace) -> None:
    from submodel.report import table
    from submodel.tasks.rows import read_rows

    if not Path(args.rows).is_file():
        raise SubmodelError(f"{args.rows}: no such file: give the rows that submodel eval wrote")
    rows = read_rows(Path(args.rows))
    _print(args, {"rows": [row.__dict__ for row in rows]}, [table(rows)])


def _study(args: argparse.Namespace) -> int:
    from submodel import study
    from submodel.report import aligned
    from submodel.study.cost import duration

    given = study.read_study(Path(args.file), args.set)
    out = Path(args.out or given.file.with_suffix("")).resolve()
    bases = study.open_bases(given, args.trust_remote_code)
    cells = study.plan(given, out, bases, trust_remote_code=args.trust_remote_code, unsafe_code=args.unsafe_code)
    chosen = study.select(cells, args.only)
    records = study.Records(out)
    records.refuse_other_bases(bases)
    records.refuse_others(cells)
    if args.dry_run:
        results = study.standing(chosen, records)
        lines = [["cell", "state", "estimate"]]
        lines += [[r.cell.name, r.state, "" if r.state == "done" else duration(r.estimate)] for r in results]
        _print(args, {"cells": [r.as_dict() for r in results]}, [aligned(lines), study.summary(results)])
        return 0
    with records.lock():
        results = study.run(chosen, records, limit=args.limit, say=_say)
    rows = [row.__dict__ for cell in cells for row in records.rows_of(cell)]
    shown = [study.study_table(given, cells, records), "", study.summary(results)]
    _print(args, {"cells": [r.as_dict() for r in results], "rows": rows}, shown)
    failed = [r for r in results if r.state == "failed"]
    for result in failed:
        _say(f"failed: {result.cell.name}: {result.reason}; its log: {records.log(result.cell)}")
    return 2 if failed else 0


def _compare(args: argparse.Namespace) -> None:
    from submodel.compare import compare_masks
    from submodel.report import aligned
    from submodel.store import Store, split_reference

    if len(args.model) < 2:
        raise SubmodelError("compare needs two sub-models or more: give STORE@A STORE@B")
    loaded = {}
    for reference in args.model:
        parts = split_reference(reference)
        if parts is None:
            raise SubmodelError(f"{reference}: give STORE@NAME")
        loaded[reference] = Store(parts[0]).masks(parts[1])
    pairs: dict[str, Any] = {}
    lines = ["Jaccard distance of the kept weights (1 - both / either), and fraction of positions that differ"]
    first, *others = loaded
    for index, a in enumerate([first, *others]):
        for b in others[index:]:
            found = compare_masks(loaded[a], loaded[b])
            groups = {
                "block": {str(k): v.jaccard_distance for k, v in found.blocks.items()},
                "type": {k: v.jaccard_distance for k, v in found.types.items()},
                "matrix": {k: v.jaccard_distance for k, v in found.matrices.items()},
            }
            whole = found.whole
            pairs[f"{a} {b}"] = {"whole": whole.jaccard_distance, "differing": whole.differing, **groups}
            lines.append(f"\n{a}  {b}: {whole.jaccard_distance:.4f}, {whole.differing:.4f} differ")
            kinds = [["matrix type", "distance"], *([k, f"{v:.4f}"] for k, v in groups["type"].items())]
            blocks = [["block", "distance"], *([k, f"{v:.4f}"] for k, v in groups["block"].items())]
            lines += [aligned(kinds), aligned(blocks)]
    _print(args, {"set": "kept weights", "pairs": pairs}, lines)


def _generate(args: argparse.Namespace) -> None:
    from submodel.runtime import generate, load

    loaded = load(
        args.model,
        device=args.device,
        base=args.base,
        trust_remote_code=args.trust_remote_code,
        weight_format=args.format,
    )
    show: Callable[[str], Any] = (lambda text: None) if args.json else _flush
    text = generate(
        loaded,
        args.prompt,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        seed=args.seed,
        chat=args.chat,
        write=show,
    )
    _print(args, {"model": args.model, "prompt": args.prompt, "text": text}, [""])


def _flush(text: str) -> None:
    print(text, end="", flush=True)


def _named(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    if not equals or not name or not path:
        raise SubmodelError(f"--calibration {spec!r}: give NAME=PATH[:COLUMN]")
    return name, path


class _Bar:
    """A progress bar on standard error with the time left."""

    def __init__(self, what: str, unit: str):
        from tqdm import tqdm

        self._what = what
        self._bar = tqdm(
            desc=what, unit=unit, unit_scale=True, disable=None, file=sys.stderr, leave=False, dynamic_ncols=True
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, done: int, total: int) -> None:
        if not self._bar.total:
            self._bar.reset(total)  # the clock starts with the first block, past what an earlier run did
            self._bar.initial = done
        self._bar.update(done - self._bar.n)

    def named(self, what: str, done: int, total: int) -> None:
        if self._what != what:
            self._what = what
            self._bar.set_description(what, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _print(args: argparse.Namespace, document: Any, lines: list[str]) -> None:
    print(json.dumps(document) if args.json else "\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="submodel", description="Derive specialised sub-models from one language model by pruning.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, run: Callable[[argparse.Namespace], int | None], about: str) -> argparse.ArgumentParser:
        p = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        p.set_defaults(run=run)
        p.add_argument("--json", action="store_true", help="print one JSON document")
        return p

    def runs_model(p: argparse.ArgumentParser, moved: bool = True) -> None:
        p.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
        p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the model")
        if moved:
            p.add_argument("--base", help="where the store's base is now, if it has moved")

    def packs(p: argparse.ArgumentParser) -> None:
        p.add_argument("--format", help="pack the weights: bf16, int8, int4, dense or dense-int8 (default: as stored)")

    p = verb("extract", _extract, "derive one sub-model per domain in one walk over the base")
    p.add_argument("model", metavar="MODEL", help="Hugging Face directory, hub id or .gguf file")
    p.add_argument("--out", required=True, metavar="STORE", help="the store; made if it is not there")
    p.add_argument(
        "--domain", action="append", default=[], metavar="D", help="a domain (default: all of --calibration)"
    )
    p.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="NAME=PATH[:COLUMN]",
        help="a domain from own JSONL, parquet or text, or from a source tree (then COLUMN is its language)",
    )
    p.add_argument("--name", action="append", default=[], help="a sub-model's name (default: its domain's)")
    p.add_argument(
        "--method",
        default="wanda",
        help="magnitude, wanda, ria, swaps or sparsegpt; +reconstruct after it fits the kept weights (default: wanda)",
    )
    p.add_argument("--sparsity", type=float, help="fraction of every row to remove (default: 0.5)")
    p.add_argument(
        "--allocation",
        default="uniform",
        help="sparsity of each block: uniform, or from a pass over the dense model owl or error (default: uniform)",
    )
    p.add_argument(
        "--openings",
        type=int,
        metavar="N",
        help="one-token samples beside the text, as what a sequence may open with (default: swaps 4096, others none)",
    )
    p.add_argument("--pattern", metavar="N:M", help="keep N of every M consecutive weights, such as 2:4")
    p.add_argument("--samples", type=int, default=128, help="calibration samples (default: 128)")
    p.add_argument("--seq-len", type=int, default=2048, help="tokens a sample (default: 2048)")
    p.add_argument("--tokens", type=int, help="token budget of every domain, instead of --samples")
    p.add_argument("--seed", type=int, default=0, help="of the choice of text (default: 0)")
    p.add_argument("--dtype", choices=_DTYPES, help="of the arithmetic (default: bfloat16 where the processor has it)")
    p.add_argument("--batch-tokens", type=int, default=512, help="tokens at once on one core (default: 512)")
    runs_model(p, moved=False)

    p = verb("list", _list, "say what is in a store")
    p.add_argument("store", metavar="STORE")

    p = verb("info", _info, "print a sub-model's sizes and recipe")
    p.add_argument("model", metavar="STORE@NAME")

    p = verb("verify", _verify, "check every checksum, the base's identity and the exact sparsity of every row")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--base", help="where the store's base is now, if it has moved")

    p = verb("export", _export, "write a sub-model as a plain Hugging Face directory, or packed")
    p.add_argument("model", metavar="STORE@NAME")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--format", default="hf", help="hf (default), packed-bf16, packed-int8 or packed-int4")
    runs_model(p)

    p = verb("eval", _eval, "measure models on tasks; cells that are already in the file are skipped")
    p.add_argument("model", nargs="+", metavar="MODEL")
    p.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="T",
        help="perplexity:PATH[:COLUMN], humaneval, mbpp, csr, ...",
    )
    p.add_argument("--out", required=True, metavar="ROWS.jsonl", help="rows are appended to it")
    p.add_argument("--data-dir", metavar="DIR", help="where named sets lie as SET/SPLIT.jsonl (default: the hub)")
    p.add_argument("--limit", type=int, help="at most so many problems or windows of text, for a quick look")
    p.add_argument("--tokens", type=int, default=50_000, help="tokens of a perplexity's text (default: 50000)")
    p.add_argument("--seq-len", type=int, default=1024, help="tokens a window of it (default: 1024)")
    p.add_argument("--samples", type=int, help="continuations a problem (default: 1, or the largest k)")
    p.add_argument("--k", metavar="K[,K]", help="the k of pass@k (default: 1, and 10 from 10 samples on)")
    p.add_argument("--temperature", type=float, help="0 is greedy (default: 0 for one sample, 0.8 for several)")
    p.add_argument("--top-p", type=float, help="nucleus to sample from (default: 0.95 when sampling)")
    p.add_argument("--max-tokens", type=int, help="new tokens a continuation at most (default: the task's)")
    p.add_argument("--chat", action="store_true", help="put prompts into the model's chat template")
    p.add_argument("--slots", type=int, help="sequences side by side on each core (default: as memory allows)")
    p.add_argument("--unsafe-code", action="store_true", help="run model-written code even where nothing isolates it")
    p.add_argument("--wordnet", metavar="DIR", help="WordNet's dictionary files (default: where Debian puts them)")
    p.add_argument("--seed", type=int, default=0, help="of the choice of text and of sampling (default: 0)")
    p.add_argument("--dtype", choices=_DTYPES, help="of weights and arithmetic (default: as stored)")
    packs(p)
    runs_model(p)

    p = verb("report", _report, "print the table of a file of rows")
    p.add_argument("rows", metavar="ROWS.jsonl")

    p = verb("study", _study, "run a grid of extractions and evaluations from a file; goes on where it stopped")
    p.add_argument("file", metavar="FILE.toml", help="the study (docs/studies.md)")
    p.add_argument("--out", metavar="DIR", help="its stores, rows, records and logs (default: FILE without .toml)")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put a value into the file's place, such as data=DIR or models.smol=DIR",
    )
    p.add_argument("--dry-run", action="store_true", help="print the cells, what is done and what the rest will take")
    p.add_argument("--only", metavar="TEXT", help="cells with this in their name or fitting a glob, and what they need")
    p.add_argument("--limit", type=int, help="run so many cells at most")
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the models")
    p.add_argument("--unsafe-code", action="store_true", help="run model-written code even where nothing isolates it")

    p = verb("compare", _compare, "print the Jaccard distances between sub-models")
    p.add_argument("model", nargs="+", metavar="STORE@NAME")

    p = verb("generate", _generate, "continue a prompt, streamed to the terminal")
    p.add_argument("model", metavar="MODEL")
    p.add_argument("--prompt", required=True)
    p.add_argument("--max-tokens", type=int, default=128, help="new tokens at most (default: 128)")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    p.add_argument("--top-p", type=float, default=1.0, help="nucleus to sample from (default: 1)")
    p.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    p.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    packs(p)
    runs_model(p)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = parser().parse_args(argv)
    # threads that wait for each other by spinning slow a shared machine down several times
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        for option in ("samples", "seq_len", "tokens", "batch_tokens", "limit", "max_tokens", "slots"):
            if (value := getattr(args, option, None)) is not None and value < (2 if option == "seq_len" else 1):
                raise SubmodelError(f"--{option.replace('_', '-')} {value}: give a larger number")
        return args.run(args) or 0
    except SubmodelError as error:
        _say(f"submodel {args.verb}: {error}")
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        _say("interrupted: the same command goes on where this one stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
