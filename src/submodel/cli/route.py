"""submodel route: explain a routing decision, and fit the router of an existing store."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submodel.cli.console import say, show
from submodel.errors import SubmodelError, unknown_name

if TYPE_CHECKING:
    from submodel.router import Decision, Router, Signals


def add_options(p: argparse.ArgumentParser) -> None:
    """The options of `route`."""
    p.add_argument("store", metavar="STORE")
    p.add_argument("text", metavar="TEXT", nargs="?", help="the request")
    p.add_argument("--file", metavar="NAME", help="the file that the request is about; only its name is read")
    p.add_argument("--suffix", help="the text after the gap, where code is to be filled in after TEXT")
    p.add_argument(
        "--language", metavar="L", help="a programming language or a sub-model, as a client's header says it"
    )
    p.add_argument("--threshold", type=float, help="less confidence goes to the default (default: the store's, or 0.5)")
    p.add_argument("--default", metavar="NAME", help="the sub-model for what is not sure (default: the base)")
    p.add_argument(
        "--fit",
        action="append",
        default=[],
        metavar="NAME=PATH[:COLUMN]",
        help="keep what this text of a sub-model's domain looks like, for stores that lack it; NAME base: what no "
        "sub-model should get",
    )
    p.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help='keep the threshold that is best for own requests: JSON lines with "text" and "name" (null: the base)',
    )
    p.add_argument("--base", help="where the store's base is now, if it has moved")
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the model")


def run(args: argparse.Namespace) -> None:
    """Fit and calibrate as asked, then print the decision and what spoke for it."""
    from submodel.api.routing import fit_router, fit_threshold
    from submodel.router import Signals, open_router
    from submodel.store import Store
    from submodel.store.base import open_store_base

    if args.text is None and not args.fit and args.calibrate is None:
        raise SubmodelError("nothing to do: give TEXT, --fit or --calibrate")
    store = Store(Path(args.store))
    opening = {"base": args.base, "trust_remote_code": args.trust_remote_code}
    document: dict[str, Any] = {}
    lines: list[str] = []
    if args.fit:
        document["fitted"] = fit_router(args.store, dict(_named(spec) for spec in args.fit), **opening)
        lines += [f"{args.store}@{name}: fitted to {count} texts" for name, count in document["fitted"].items()]
    if args.calibrate is not None:
        document["threshold"], count = fit_threshold(args.store, args.calibrate, **opening)
        lines.append(f"threshold {document['threshold']:.3f}, by {count} requests")
    moved = open_store_base(store, args.base, args.trust_remote_code) if args.base or args.trust_remote_code else None
    router = open_router(store, moved, threshold=args.threshold, default=args.default)
    if router.missing:
        say(
            f"without statistics for routing: {', '.join(router.missing)}: they get requests by header, file, fence "
            f"and detector only; give --fit NAME=PATH with text of their domains"
        )
    if args.text is not None:
        signals = Signals(args.text, args.file, args.suffix, args.language)
        if args.language and not router.knows(args.language):
            raise unknown_name(
                "language or sub-model", args.language, {*router.names, *sum(router.languages.values(), ())}
            )
        decision = router.choose(signals)
        speaking, explained = _explain(router, signals, decision)
        document |= {**decision.__dict__, "threshold": router.threshold, "tokens": speaking}
        lines += explained
    show(args, document, lines)


def _named(spec: str) -> tuple[str, str]:
    name, equals, path = spec.partition("=")
    if not equals or not name or not path:
        raise SubmodelError(f"--fit {spec!r}: give NAME=PATH[:COLUMN]")
    return name, path


def _explain(router: "Router", signals: "Signals", decision: "Decision") -> tuple[list[tuple[str, float]], list[str]]:
    """The tokens that spoke for the likeliest label against the next, and the whole as lines."""
    lines = [f"{decision.name or 'the base'}, by {_BY[decision.signal]}, confidence {decision.confidence:.3f}"]
    if not decision.scores:
        if decision.signal == "default":
            lines.append("nothing said what it is: give a file, a fence with a language, a header, or fit the router")
        elif decision.signal not in ("header", "detector"):
            lines.append("a header would come first")
        return [], lines
    first, second = sorted(decision.scores, key=lambda name: -decision.scores[name])[:2]
    likely = [(name, p) for name, p in sorted(decision.scores.items(), key=lambda item: -item[1]) if p >= 0.001]
    lines.append("scores: " + ", ".join(f"{name} {p:.3f}" for name, p in likely))
    speaking = router.speaking(signals.text, first, second)
    lines.append(
        f"for {first} against {second}: " + ", ".join(f"{token!r} {part:+.1f}" for token, part in speaking[:6])
    )
    against = [(token, part) for token, part in reversed(speaking) if part < 0][:6]
    if against:
        lines.append(f"for {second} against {first}: " + ", ".join(f"{token!r} {part:+.1f}" for token, part in against))
    if decision.signal == "default":
        lines.append(
            f"{first} would get it at a threshold of {decision.scores[first]:.3f} (now {router.threshold:.3f})"
        )
    lines.append("a header, a file name or a fence with a language would come first")
    return speaking, lines


_BY = {
    "header": "header",
    "file": "the file's name",
    "fence": "the fenced block's language",
    "fim": "the code around the gap",
    "detector": "the language detector",
    "activations": "the base's activations",
    "mention": "the one language that it names",
    "default": "default",
}
