"""Requests for no sub-model: everyday questions, plain prose, programming tasks that name no language or another one.

The router learns these as the base's own, so that a request outside all domains of a store is not given to the
nearest of them. The first two stand in background.txt, a text a line, written for this project.
"""

import random
from importlib.resources import files

from submodel.router import prompts
from submodel.router.languages import SPOKEN

_PASSAGES, _STUBS = 120, 24


def texts() -> dict[str, list[str]]:
    """Kind -> texts: `everyday`, `prose`, `code` (that names no language), `code.LANGUAGE`, `stubs.LANGUAGE`."""
    everyday, prose = lines()
    rng = random.Random(0)
    passages = [" ".join(rng.sample(prose, rng.randint(1, 5))) for _ in range(_PASSAGES)]
    kinds = {"everyday": everyday, "prose": [text[rng.randrange(40) :] for text in passages]}
    kinds["code"] = [f"{task[0].upper()}{task[1:]}." for task in prompts.TASKS]
    kinds["code"] += [f"Write a function to {task}." for task in prompts.TASKS]
    for language, spoken in SPOKEN.items():
        kinds[f"code.{language}"] = prompts.requests([""], "code", spoken, len(prompts.TASKS), 0)
        kinds[f"stubs.{language}"] = prompts.stubs([], everyday, language, _STUBS, 0)
    return kinds


def lines() -> tuple[list[str], list[str]]:
    """Everyday questions, and passages of prose."""
    text_lines = files("submodel.router").joinpath("background.txt").read_text(encoding="utf-8").splitlines()
    prose = text_lines.index("[prose]")
    return text_lines[1:prose], text_lines[prose + 1 :]
