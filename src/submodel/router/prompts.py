"""Texts that a domain's requests look like, made from its calibration documents.

People send pieces of code and tasks in words; calibration text is whole documents. So each domain is shown to the
router in several kinds of text: `pieces` of its documents, long and short; `requests`: for code, tasks that name the
language, from the first sentences of comments and from names of functions; else the documents' opening sentences,
and for translation those with an instruction before them; and, for code, `stubs`: a task as a comment at the head of
a function that is still to be written.
"""

import random
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

_SHORTEST, _LONGEST = 40, 800  # characters of a piece: a line or two to a page

_CODE = (
    "Write a {language} function that {task}.",
    "Write {language} code to {task}",
    "{language} function: {task}",
    "Implement this in {language}: {task}.",
    "{task} in {language}",
    "How do I {task} in {language}?",
    "Create a {language} program to {task}.",
    "Complete the following {language} code: {task}",
)
_TRANSLATION = (
    "Translate to {target}: {text}",
    "Translate the following text from {source} to {target}.\n\n{text}",
    "{source}: {text}\n{target}:",
    'What is "{text}" in {target}?',
    "Translate this into {target}:\n{text}",
    "{text}\n\nTranslation:",
)
_TONGUES = ("English", "French", "German", "Spanish", "Italian")

TASKS = (
    "sort a list of numbers",
    "read a CSV file and print its columns",
    "reverse a string",
    "check whether a word is a palindrome",
    "find the largest element of an array",
    "count the words of a text",
    "remove duplicates while keeping the order",
    "compute the factorial of a number",
    "send an HTTP request and parse the answer",
    "merge two sorted lists",
    "find the shortest path in a graph",
    "convert a date to a timestamp",
    "parse command line arguments",
    "read a file line by line",
    "compute the average of some values",
    "implement a stack with push and pop",
    "find all prime numbers below a limit",
    "validate an e-mail address",
    "group records by a key",
    "write a unit test for a calculator",
    "cache the results of a slow call",
    "connect to a database and run a query",
    "generate a random password",
    "split a sentence into words",
    "multiply two matrices",
    "fix the bug in this loop",
    "flatten a nested list",
    "count how often each letter occurs",
    "turn a string into upper case",
    "walk a directory tree",
    "implement binary search",
    "compare two objects for equality",
)
"""What anybody requests of any programming language: only the language's name tells such requests apart."""

_EXAMPLES = (
    "Example: [1, 2, 3] -> 6",
    ">>> solve([3, 1, 2])",
    "[1, 2, 3]",
    "For 'abc' return 'cba', for '' return ''.",
    "solve(5) == 120",
    "Input: [2, 7, 11, 15], 9",
    "Output: True",
    "If there is none, return -1.",
)

_COMMENT = re.compile(
    r'/\*+(.{15,2000}?)\*/|"""(.{15,2000}?)"""|' + r"'''(.{15,2000}?)'''|((?:^[ \t]*//[^\n]*\n){1,30})", re.S | re.M
)
_NAME = re.compile(
    r"\b(?:def|function|func|fn)\s+([A-Za-z_]\w{4,40})|\b([A-Za-z]\w{4,40})\s*\([^;{}()]*\)[\w\s,]{0,40}\{"
    r"|\b([A-Za-z]\w{4,40})\s*[:=]\s*(?:async\s+)?(?:function\b|\([^()]*\)\s*=>)"
)
_HASHED = ("python", "ruby")  # their comments begin with #
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def pieces(documents: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` pieces of documents: of many lengths, from the start of a document or of one of its lines."""
    rng = random.Random(seed)
    texts: list[str] = []
    for at in range(count):
        text = documents[at % len(documents)]
        lines = text.splitlines(keepends=True)
        first = rng.choice([0, rng.randrange(max(1, len(lines) - 1))]) if lines else 0
        length = round(_SHORTEST * (_LONGEST / _SHORTEST) ** rng.random())
        texts.append("".join(lines[first:])[:length])
    return [piece for piece in texts if piece.strip()]


def requests(documents: Sequence[str], subject: str | None, language: str | None, count: int, seed: int) -> list[str]:
    """About `count` requests for a domain.

    Args:
        documents: the domain's text.
        subject: "code", "translation" or None for anything else.
        language: how people call the programming language, for code.
        count: how many.
        seed: of the choice of documents and phrases.
    """
    rng = random.Random(seed)
    if subject == "code" and language:
        from_documents = [task for text in documents for task in _tasks_of(text)]
        rng.shuffle(from_documents)
        common = [task for task in TASKS for _ in range(max(1, count // (2 * len(TASKS))))]
        rest = max(0, count - len(common))
        tasks = [*common, *(from_documents * (rest // max(1, len(from_documents)) + 1))[:rest]]
        return [_sentence(rng.choice(_CODE).format(language=language, task=task)) for task in tasks]
    openings = [_opening(documents[at % len(documents)], rng) for at in range(count)]
    openings = [text for text in openings if text]
    if subject != "translation":
        return openings
    translations: list[str] = []
    for text in openings:
        source, target = rng.sample(_TONGUES, 2)
        translations.append(rng.choice(_TRANSLATION).format(source=source, target=target, text=text))
    return translations


def stubs(documents: Sequence[str], prose: Sequence[str], language: str, count: int, seed: int) -> list[str]:
    """`count` heads of functions, from documents and such as anybody writes, with comments that say what to do.

    Args:
        documents: code of the language; may be empty.
        prose: sentences on anything: comments hold them too, so that words tell domains apart less than code does.
        language: a key of languages.SPOKEN; it decides how comments are written.
        count: how many.
        seed: of the choice.
    """
    rng = random.Random(seed)
    tasks = [*TASKS, *(task for text in documents for task in _tasks_of(text))]
    heads = [line for text in documents for line in text.splitlines() if _NAME.search(line) and len(line) < 200]
    common = heads_of(language)
    written: list[str] = []
    for at in range(count):
        *before, head = (rng.choice(heads if heads and at % 2 else common)).split("\n")
        indent = " " * (len(head) - len(head.lstrip()))
        comment_lines = [_sentence(rng.choice(tasks)) + ".", *(rng.choice(prose) for _ in range(rng.randint(0, 3)))]
        comment_lines = [*rng.sample(comment_lines, len(comment_lines)), *rng.sample(_EXAMPLES, rng.randint(0, 3))]
        if language == "python" and rng.random() < 0.7:
            lines = [
                *before,
                head,
                f'{indent}    """',
                *(f"{indent}    {line}" for line in comment_lines),
                f'{indent}    """',
            ]
        elif language in _HASHED:
            lines = [*before, *(f"{indent}# {line}" for line in comment_lines), head]
        else:
            start, middle, end = rng.choice([("/**", " * ", " */"), ("/*", "", "*/"), ("", "// ", "")])
            comment = [
                f"{indent}{line}" for line in (start, *(f"{middle}{line}" for line in comment_lines), end) if line
            ]
            lines = [*comment, *before, head] if rng.random() < 0.5 else [*before, *comment, head]
        written.append("\n".join(lines) + "\n")
    return written


@cache
def heads_of(language: str) -> tuple[str, ...]:
    """The beginnings of programs in a language, a key of languages.SPOKEN, of heads.txt."""
    text = files("submodel.router").joinpath("heads.txt").read_text(encoding="utf-8").strip()
    sections = dict(section.split("\n", 1) for section in text.split("\n===\n"))
    return tuple(sections[f"[{language}]"].split("\n---\n"))


def _tasks_of(text: str) -> list[str]:
    """What the functions of a piece of code are for: first sentences of comments, and names in words."""
    tasks: list[str] = []
    for match in _COMMENT.finditer(text):
        comment = next(group for group in match.groups() if group)
        lines = [re.sub(r"^[\s/*!#]+", "", line).strip() for line in comment.splitlines()]
        words = " ".join("\n".join(lines).strip().split("\n\n")[0].split())
        sentence = re.sub(r"<[^>]+>|\{@\w+ ([^}]*)\}", r"\1", re.split(r"\. |\.$|@\w+|:param", words)[0]).strip()
        if 15 <= len(sentence) <= 160 and sentence.count(" ") >= 2:
            tasks.append(sentence[0].lower() + sentence[1:])
    for match in _NAME.finditer(text):
        words = _WORDS.findall(next(group for group in match.groups() if group))
        if len(words) >= 2:
            tasks.append(" ".join(words).lower())
    return tasks


def _opening(text: str, rng: random.Random) -> str:
    """The first one to three sentences of a document's first paragraph, without a label such as `#Text:`."""
    first = re.sub(r"^\W*\w+:\s+", "", text.strip().split("\n\n")[0].split(" #")[0].strip())
    sentences = _SENTENCE_END.split(first)
    return " ".join(sentences[: rng.randint(1, 3)])[:_LONGEST].strip()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
