"""Programming languages by any name: what people write, file names, what a sub-model's name or recipe says.

Names and file patterns are Pygments' (https://pygments.org); a language is called by the first alias of its lexer,
such as `python`, `cpp`, `javascript`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from pygments.lexers import find_lexer_class_by_name, find_lexer_class_for_filename
from pygments.util import ClassNotFound

SPOKEN = {
    "python": "Python",
    "java": "Java",
    "cpp": "C++",
    "c": "C",
    "javascript": "JavaScript",
    "typescript": "TypeScript",
    "go": "Go",
    "rust": "Rust",
    "ruby": "Ruby",
    "php": "PHP",
    "csharp": "C#",
    "kotlin": "Kotlin",
    "swift": "Swift",
}
"""What people call the languages that a sub-model may be for."""

RELATED = {"c": "cpp", "cpp": "c", "typescript": "javascript", "tsx": "javascript", "jsx": "javascript"}
"""The language whose sub-model is the next best, where a language has none."""

_SHORT = {"py": "python", "js": "javascript", "ts": "typescript", "golang": "go", "cs": "csharp", "c++": "cpp"}
_PROSE = {"text", "markdown", "restructuredtext", "tex", "html", "output", "pytb", "console", "doscon"}


_IN_WORDS = {
    spoken: language for language, spoken in SPOKEN.items() if spoken not in ("C", "Go", "Rust", "Swift", "Ruby")
}
_WORD = re.compile("|".join(rf"(?<!\w){re.escape(spoken)}(?!\w|[+#])" for spoken in _IN_WORDS), re.IGNORECASE)


def languages_in_words(text: str) -> list[str]:
    """The languages that a text names, such as "a Java function"; those whose name is a common word are left out."""
    known = {spoken.lower(): language for spoken, language in _IN_WORDS.items()}
    return list(dict.fromkeys(known[word.lower()] for word in _WORD.findall(text)))


@lru_cache(maxsize=1024)
def language_named(name: str) -> str | None:
    """`C++`, `py`, `golang` -> the language's name here; None for what is none, such as `text`."""
    try:
        lexer: Any = find_lexer_class_by_name(name.strip().lower())
    except ClassNotFound:
        return None
    return None if lexer.aliases[0] in _PROSE else lexer.aliases[0]


@lru_cache(maxsize=1024)
def language_of_file(file: str) -> str | None:
    """The language of a file by its name alone; None for prose and for names that say nothing."""
    lexer: Any = find_lexer_class_for_filename(PurePath(file.replace("\\", "/")).name)
    return None if lexer is None or lexer.aliases[0] in _PROSE else lexer.aliases[0]


def languages_of(name: str, calibration: Mapping[str, Any] | None) -> list[str]:
    """The programming languages a sub-model is for, the most important first, by its recipe: the language of a source
    tree, the endings of its files, the name of its data set, its own name."""
    parts = [calibration, *calibration.get("parts", [])] if calibration else []
    texts: list[str] = [name]
    files: Counter[str] = Counter()
    for part in parts:
        texts += [str(part.get("column") or ""), str(part.get("set", {}).get("name", "")), str(part.get("path", ""))]
        counted = (language_of_file(file) for file in part.get("rows", {}))
        files.update(language for language in counted if language in SPOKEN)
    often = [language for language, count in files.most_common() if count * 5 >= files.total()]
    return often or list(dict.fromkeys(_words_that_name(texts)))


def _words_that_name(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        for word in re.split(r"[^A-Za-z0-9+#]+", text.lower()):
            word = _SHORT.get(word, word)
            if word in SPOKEN and len(word) > 1:
                yield word


def subject_of(name: str, calibration: Mapping[str, Any] | None) -> str | None:
    """ "code", "translation", or None for anything else, by a sub-model's name and recipe."""
    if languages_of(name, calibration):
        return "code"
    recipe = [name, *(str((calibration or {}).get(key, "")) for key in ("set", "path"))]
    return (
        "translation" if re.search(r"translat|wmt|opus|croissant|fr[-_]en|en[-_]fr", " ".join(recipe).lower()) else None
    )
