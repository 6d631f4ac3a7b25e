"""What is nobody's request: everyday questions, plain prose, programming tasks that name no language or another one.

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
    found = {"everyday": everyday, "prose": [text[rng.randrange(40) :] for text in passages]}
    found["code"] = [f"{task[0].upper()}{task[1:]}." for task in prompts.TASKS]
    found["code"] += [f"Write a function to {task}." for task in prompts.TASKS]
    for language, spoken in SPOKEN.items():
        found[f"code.{language}"] = prompts.requests([""], "code", spoken, len(prompts.TASKS), 0)
        found[f"stubs.{language}"] = prompts.stubs([], everyday, language, _STUBS, 0)
    return found


def lines() -> tuple[list[str], list[str]]:
    """Everyday questions, and passages of prose."""
    found = files("submodel.router").joinpath("background.txt").read_text(encoding="utf-8").splitlines()
    prose = found.index("[prose]")
    return found[1:prose], found[prose + 1 :]
