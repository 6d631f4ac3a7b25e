"""A programming problem: its prompt, and how a model's text becomes the program that is judged."""

import re
from dataclasses import dataclass

from submodel.tasks.judge import Program

SHOWN = {"python": "Python", "java": "Java", "cpp": "C++", "javascript": "JavaScript"}
_FENCED = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """One problem of a code task.

    Attributes:
        id: as the data set names it.
        language: "python", "java", "cpp" or "javascript".
        prompt: what the model continues, to the letter: a stripped newline costs points.
        stops: its text ends before the first of them.
        before, after, closing, tests: the program is before + text + after + closing + tests; Python's tests run apart
            from it. `after` is what the model sees behind a gap that it fills.
        context: text of the data set that Python's tests may use, such as helpers that the prompt defines.
        entry: the Python function under test; "" for every name that the tests use.
        question: what a chat model is asked; the prompt as a fenced block if None.
        solution: the data set's own text, or None.
    """

    id: str
    language: str
    prompt: str
    stops: tuple[str, ...]
    before: str
    tests: str
    after: str = ""
    closing: str = ""
    context: str = ""
    entry: str = ""
    question: str | None = None
    solution: str | None = None


def program(problem: Problem, text: str, closing: bool = True) -> Program:
    """The program for a text that ended before a stop; `closing=False` for one that closes its own braces."""
    source = problem.before + text + problem.after + (problem.closing if closing else "")
    if problem.language == "python":
        return Program("python", source, problem.tests, problem.context, problem.entry)
    return Program(problem.language, f"{source}\n{problem.tests}")


def question(problem: Problem) -> str:
    """What a chat model is asked."""
    if problem.question is not None:
        return problem.question
    fence = problem.language
    return (
        f"Complete this {SHOWN[problem.language]} function. Answer with the whole function in one code block.\n\n"
        f"```{fence}\n{problem.prompt.strip()}\n```"
    )


def text_of_answer(problem: Problem, answer: str) -> tuple[str, bool]:
    """A chat answer as the text that would have continued the prompt, and whether it ended at a stop.

    The first code block counts (the whole answer if there is none). In Python its definitions follow the prompt's
    and so replace them. Elsewhere what follows the prompt's last line, the signature, is taken and cut at the stops.
    """
    block = _FENCED.search(answer)
    code = block.group(1) if block else answer
    if problem.language == "python":
        return (f"\n{code}" if problem.before else code), False
    signature = problem.before.rstrip().rsplit("\n", 1)[-1]
    head, has_signature, body = code.partition(signature.strip())
    if not has_signature:  # the model wrote the signature its own way: by name, up to its brace
        name = re.findall(r"(\w+)\s*(?:=\s*)?\(", signature)
        match = re.search(rf"\b{re.escape(name[-1])}\b[^{{]*{{", code) if name else None
        body = code[match.end() :] if match else head
    cuts = [at for stop in problem.stops if (at := body.find(stop)) >= 0]
    return (body[: min(cuts)], True) if cuts else (body, False)
