"""Options that several verbs share, and the checks of their values."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from submodel.errors import SubmodelError

DTYPES = ("bfloat16", "float16", "float32")
AUTO = "auto"

# the packed formats of `runtime.packed.formats`, which help must not wait for; a test holds the two together
SURVIVORS = ("bf16", "int8", "int4")
MASKED = (*SURVIVORS, "shared", "shared-int8")
FORMATS = (*MASKED, "dense", "dense-int8")
GRIDS = ("int8", "int4")


def either(names: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


DECODING = (
    "The model's generation_config.json is followed: its penalties and bans (repetition_penalty, no_repeat_ngram_size, "
    "bad_words_ids and the like) always, its top_k, top_p and min_p where tokens are sampled and none is given. Its "
    "temperature and do_sample are not: decoding is greedy unless a temperature is given (a server's client gives one: "
    "OpenAI's default is 1). Beam search and the like are refused."
)


def tokens(given: str) -> int | str:
    """A token budget: a number, or AUTO."""
    if given == AUTO:
        return AUTO
    try:
        return int(given)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid value {given!r}: give a number or {AUTO}") from None


_LEAST = {"seq_len": 2, "seed": 0, "temperature": 0, "port": 0} | dict.fromkeys(
    ("samples", "tokens", "batch_tokens", "limit", "max_tokens", "slots", "requests"), 1
)
_MOST = {"seed": 2**63 - 1, "port": 65535}


def check(args: argparse.Namespace) -> None:
    """Raises SubmodelError for a number that no verb can use, or a device that is not there."""
    for option, least in _LEAST.items():
        value, most = getattr(args, option, None), _MOST.get(option, float("inf"))
        if isinstance(value, int | float) and not least <= value <= most:
            allowed = f"{least} to {most}" if option in _MOST else "a larger number"
            raise SubmodelError(f"--{option.replace('_', '-')} {value}: give {allowed}")
    if (device := getattr(args, "device", "cpu")) != "cpu":
        import torch

        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise SubmodelError(f"--device {device}: not to be had here ({why}): give another, such as cpu") from error


def directory(given: str | None) -> Path | None:
    """The directory that an option names, None where it is not given. Raises SubmodelError when there is none."""
    if given is not None and not Path(given).is_dir():
        raise SubmodelError(f"{given}: no such directory")
    return Path(given) if given is not None else None


def dtype(args: argparse.Namespace) -> Any:
    """The torch dtype that --dtype names; None where it is not given."""
    import torch

    return getattr(torch, args.dtype) if args.dtype else None


def add_running(p: argparse._ActionsContainer, moved: bool = True) -> None:
    """Options of what computes with a model."""
    p.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    add_opening(p, moved)


def add_opening(p: argparse._ActionsContainer, moved: bool = True) -> None:
    """Options of what opens a model."""
    p.add_argument("--trust-remote-code", action="store_true", help="run code that is shipped with the model")
    if moved:
        p.add_argument("--base", help="where the store's base is now, if it has moved")


def add_format(p: argparse.ArgumentParser) -> None:
    """The option of what may run a model packed."""
    p.add_argument(
        "--format",
        help=f"pack the weights: {either(FORMATS)} (default: as stored)",
    )
