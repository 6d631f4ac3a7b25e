"""French to English, scored by METEOR: five samples a sentence, the best counts.

METEOR is NLTK's, with the defaults that the paper names (alpha 0.9, beta 3, gamma 0.5). Its roles matter: precision is
over the hypothesis. "meteor" takes the model's text as hypothesis and the published translation as reference;
"meteor-swapped" is what the paper's code computes, the other way round. Each comes with WordNet's synonyms and, as
"...-no-wordnet", with exact words and stems alone, so that machines without WordNet have figures to compare.
"""

import functools
import io
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from submodel.calibration.sets import NamedSet
from submodel.errors import SubmodelError, unknown_name
from submodel.runtime import Request, generate_batch
from submodel.tasks.cell import Cell, filled
from submodel.tasks.chat import refuse_without_template, user_turn
from submodel.tasks.intervals import bootstrap
from submodel.tasks.rows import Row

PAIRS = NamedSet("pud_fr_en", "wmt/wmt14", "fr-en")
WORDNET = Path("/usr/share/wordnet")  # Debian's wordnet-base
TOKENIZER = "NLTKWordTokenizer"  # word_tokenize without its division into sentences, which needs downloaded data

Matcher = Any  # what NLTK calls wordnet: synsets(word)
_LEXNAMES = {  # lexnames(5): the files are numbered in this order, but for adj.ppl, which is the last
    "adj": "all pert",
    "adv": "all",
    "noun": "Tops act animal artifact attribute body cognition communication event feeling food group location motive "
    "object person phenomenon plant possession process quantity relation shape state substance time",
    "verb": "body change cognition communication competition consumption contact creation emotion motion perception "
    "possession social stative weather",
}


@dataclass(frozen=True)
class Form:
    """A prompt: `text` with {fr} in it, and what ends the translation."""

    text: str
    stops: tuple[str, ...] = ("\n",)
    chat: bool = False


FORMS = {
    "labels": Form("French: {fr}\nEnglish:"),
    # the paper's calibration text; it does not name the languages
    "paper": Form("#Text: {fr} #Translation:", ("\n", "#Text")),
    "chat": Form("Translate from French to English. Answer with the translation alone.\n\n{fr}", (), chat=True),
}


def translation_rows(cell: Cell) -> Iterator[Row]:
    """The task `translation`, or `translation:FORM`: the mean over pairs of the best METEOR among the samples.

    `limit` pairs (400 by default) are a seeded choice; a larger choice contains a smaller one. The interval is a
    bootstrap over pairs.
    """
    given = cell.settings
    name = cell.task.spec or ("chat" if given.chat else "labels")
    if name not in FORMS:
        raise unknown_name("prompt form", name, FORMS)
    rows = cell.read(PAIRS)
    pairs = [row["translation"] for row in rows.rows if {"fr", "en"} <= set(row.get("translation", ()))]
    if len(pairs) < len(rows.rows):
        raise SubmodelError(f"{PAIRS.file}: rows without translation.fr and translation.en: give {PAIRS.hub}'s columns")
    chosen = random.Random(given.seed).sample(range(len(pairs)), len(pairs))[: given.limit or 400]
    temperature = 0.95 if given.temperature is None else given.temperature
    sampling = {"temperature": temperature, "top_p": given.top_p or 0.95, "top_k": 250} if temperature else {}
    used = {
        "prompt": name,
        "samples": (given.samples or 5) if temperature else 1,
        "max_tokens": given.max_tokens or 200,
        **(sampling or {"temperature": 0.0}),
        "seed": given.seed,
    }
    origin = PAIRS.path if given.data_dir else PAIRS.hub
    data = {"name": origin, "split": PAIRS.split, "rows": len(chosen), "of": len(pairs), "sha256": rows.sha256}
    variants = _variants(cell)
    scoring = {"alpha": 0.9, "beta": 3.0, "gamma": 0.5, "tokenizer": TOKENIZER, "nltk": version("nltk")}
    requested = {
        metric: cell.row(metric, data, {**used, **scoring, "wordnet": wordnet})
        for metric, (_, _, wordnet) in variants.items()
    }
    if all(cell.is_done(row) for row in requested.values()):
        return
    started = time.monotonic()
    texts = _texts(cell, FORMS[name], {at: pairs[at]["fr"] for at in chosen}, cell.row("texts", data, used))
    for metric, (swapped, matcher, _) in variants.items():
        if not cell.is_done(requested[metric]):
            best = np.array([best_meteor(pairs[at]["en"], texts[at], matcher(), swapped) for at in chosen])
            yield filled(requested[metric], float(best.mean()), bootstrap(best), len(best), started, best)


TRANSLATION: dict[str, Callable[[Cell], Iterator[Row]]] = {"translation": translation_rows}


def best_meteor(gold: str, texts: Sequence[str], matcher: Matcher, swapped: bool = False) -> float:
    """The best METEOR of several texts against a published translation.

    Args:
        gold, texts: the translation and the model's.
        matcher: WordNet (`open_wordnet`), or `no_wordnet()`.
        swapped: the translation is the hypothesis and each text a reference, as in the paper's code.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    words = NLTKWordTokenizer().tokenize
    pairs = ((text, gold) if swapped else (gold, text) for text in texts)
    return max(single_meteor_score(words(ref), words(hyp), wordnet=matcher) for ref, hyp in pairs)


def wordnet_version(folder: Path) -> str:
    """The version that the dictionary files in a directory name.

    Raises SubmodelError when they are not there.
    """
    files = [f for part in ("noun", "verb", "adj", "adv") for f in (f"index.{part}", f"data.{part}", f"{part}.exc")]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise SubmodelError(
            f"{folder}: no WordNet, {missing[0]} is missing: give the directory of its dictionary files"
        )
    with open(folder / "data.noun", errors="replace") as f:
        match = re.search(r"WordNet (\S+) Copyright", f.read(4096))
    return match[1] if match else "unknown"


@functools.lru_cache(maxsize=2)
def open_wordnet(folder: Path) -> Matcher:
    """WordNet from the dictionary files in a directory. NLTK looks synonyms up by a word's stem, as it always has."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class Reader(WordNetCorpusReader):
        def open(self, file: str) -> Any:
            return io.StringIO(lexnames()) if file == "lexnames" else super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping between WordNet's versions, whose tables are another download."""

    root = str(folder.resolve())
    if root not in nltk.data.path:
        nltk.data.path.append(root)  # NLTK opens no files elsewhere
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return Reader(root, None)


def no_wordnet() -> Matcher:
    """A stand-in for WordNet: no word has synonyms."""

    class Nothing:
        def synsets(self, word: str) -> list[Any]:
            return []

    return Nothing()


def lexnames() -> str:
    """WordNet's file of that name, which Debian leaves out: number, name and part of speech of 45 files."""
    numbers = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
    named = [(kind, f"{kind}.{part}") for kind, parts in _LEXNAMES.items() for part in parts.split()]
    lines = [*named, ("adj", "adj.ppl")]
    return "".join(f"{at:02d}\t{name}\t{numbers[kind]}\n" for at, (kind, name) in enumerate(lines))


def _variants(cell: Cell) -> dict[str, tuple[bool, Callable[[], Matcher], str | None]]:
    """Metric -> (roles swapped, what matches synonyms, version of WordNet)."""
    try:
        import nltk.translate.meteor_score  # noqa: F401
    except ImportError as error:
        raise SubmodelError(
            f"NLTK, which METEOR needs, cannot be imported ({error}): install submodel[eval]"
        ) from error
    folder = cell.settings.wordnet or (WORDNET if WORDNET.is_dir() else None)
    scorers: dict[str, tuple[bool, Callable[[], Matcher], str | None]] = {}
    if folder is None:
        cell.say("METEOR without synonyms: no WordNet here (Debian's wordnet-base, or --wordnet DIR)")
    else:
        wordnet, reader = wordnet_version(folder), functools.partial(open_wordnet, folder)
        scorers |= {"meteor": (False, reader, wordnet), "meteor-swapped": (True, reader, wordnet)}
    scorers |= {"meteor-no-wordnet": (False, no_wordnet, None), "meteor-swapped-no-wordnet": (True, no_wordnet, None)}
    return scorers


def _texts(cell: Cell, form: Form, sources: dict[int, str], row: Row) -> dict[int, list[str]]:
    """Index of a pair -> what the model wrote, one text a sample; finished pairs are kept in the journal."""
    journal, used, total = cell.journal(row), row.settings, len(sources)
    encode = _encoder(cell, form)
    todo = [
        Request(
            key=str(at),
            prompt=tuple(encode(source)),
            max_tokens=used["max_tokens"],
            stops=form.stops,
            seeds=tuple((used["seed"] * 1_000_003 + at) * 1009 + sample for sample in range(used["samples"])),
            temperature=used["temperature"],
            top_p=used.get("top_p", 1.0),
            top_k=used.get("top_k", 0),
        )
        for at, source in sources.items()
        if str(at) not in journal.entries
    ]
    written: dict[str, dict[int, str]] = {}
    done = total - len(todo)
    for continuation in generate_batch(cell.loaded, todo, slots=cell.settings.slots) if todo else ():
        samples = written.setdefault(continuation.key, {})
        samples[continuation.sample] = continuation.text.strip()
        if len(samples) == used["samples"]:
            journal.add(continuation.key, [samples[at] for at in range(len(samples))])
            done += 1
            cell.progress(f"{cell.loaded.name} on translation", done, total)
    return {at: journal.entries[str(at)] for at in sources}


def _encoder(cell: Cell, form: Form) -> Callable[[str], list[int]]:
    tokenizer = cell.loaded.tokenizer
    if not form.chat:
        return lambda source: tokenizer.encode(form.text.format(fr=source))
    refuse_without_template(cell.loaded)
    return lambda source: user_turn(cell.loaded, form.text.format(fr=source))
