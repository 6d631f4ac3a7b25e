"""Which sub-model of a store should answer a request: explicit signals first, then content.

In this order: a header, the file's name, a fenced block's language; then the discriminant on the base's activations,
among languages only where code is to be filled in; where it is not sure the language detector, then a language that the
text names. What is still open goes to the base or to a named default.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from submodel.base.models import Base
from submodel.errors import SubmodelError, unknown_name
from submodel.router import detector, profile
from submodel.router.discriminant import Discriminant, fit
from submodel.router.languages import RELATED, language_named, language_of_file, languages_in_words, languages_of
from submodel.router.pooled import Pooler, weights_of
from submodel.router.signals import Decision, Signals, fences
from submodel.router.threshold import read_threshold
from submodel.store import Store
from submodel.store.base import open_store_base

BASE = "base"  # in scores
_LIKELY = 0.5  # less than this the detector is not believed


@dataclass(frozen=True)
class Activations:
    """What content is recognised by: the fitted discriminant and what makes its vectors."""

    discriminant: Discriminant
    pooler: Pooler


@dataclass(frozen=True)
class Router:
    """Chooses among the sub-models of one store. Make it with `open_router`.

    Attributes:
        names: the sub-models, the oldest first.
        languages: sub-model -> its programming languages, the most important first.
        same: sub-model -> the newest one that was made from the same text, which stands for it.
        activations: None where the store has no statistics.
        threshold: less confidence goes to the default.
        default: a sub-model's name, or None for the base.
        missing: sub-models without statistics.
    """

    names: tuple[str, ...]
    languages: dict[str, tuple[str, ...]]
    same: dict[str, str]
    activations: Activations | None
    threshold: float
    default: str | None
    missing: tuple[str, ...]

    def choose(self, signals: Signals) -> Decision:
        """The decision for one request."""
        if signals.language and signals.language in self.names:
            return Decision(signals.language, 1.0, "header")
        vector = _Once(self._vector, signals)
        for signal, language in _explicit(signals):
            if language is not None:
                return self._of_language(language, signal, 1.0, vector)
        if signals.suffix is not None:
            return self._between(signals, vector)
        return self._content(signals.text, vector)

    def knows(self, language: str) -> bool:
        """Whether a header's value means anything: a sub-model of the store or any programming language."""
        return language in self.names or language_named(language) is not None

    def speaking(self, text: str, name: str, other: str) -> list[tuple[str, float]]:
        """How much each distinct token of a text speaks for one label of `Decision.scores` against another.

        The parts add up to the difference of the two log densities, in nats before the temperature.
        """
        if self.activations is None:
            return []
        pooler, discriminant = self.activations.pooler, self.activations.discriminant
        ids, states = pooler.states(text)
        weights = weights_of(ids)
        labels = [None if label == BASE else label for label in (name, other)]
        parts = weights * discriminant.difference(states, (weights @ states)[None], *labels)
        summed: dict[int, float] = {}
        for token, part in zip(ids, parts, strict=True):
            summed[token] = summed.get(token, 0.0) + float(part)
        return sorted(((pooler.tokenizer.decode([t]), part) for t, part in summed.items()), key=lambda x: -x[1])

    def _of_language(self, language: str, signal: str, confidence: float, vector: "_Once") -> Decision:
        """The sub-model for a language; the default if there is none."""
        for known in (language, RELATED.get(language)):
            names = [name for name in self.names if known in self.languages[name]]
            if names:
                return Decision(self._best(names, known or "", vector), confidence, signal)
        return Decision(self.default, confidence, signal)

    def _best(self, names: list[str], language: str, vector: "_Once") -> str:
        """Of several sub-models for one language: the one that bears its name, else the likeliest, else the newest."""
        if len(names) == 1 or language in names:
            return language if language in names else names[0]
        scores = self._scores(vector)
        fitted = [name for name in names if self.same[name] in scores]
        best = max(fitted, key=lambda name: scores[self.same[name]]) if fitted else names[-1]
        return self.same[best] if self.same[best] in names else best

    def _between(self, signals: Signals, vector: "_Once") -> Decision:
        """Fill in the middle: code in any case, so only its language is open."""
        likely = {name: p for name, p in self._scores(vector).items() if self.languages.get(name)}
        total = sum(likely.values())
        scores = {name: p / total for name, p in likely.items()} if total else {}
        best = max(scores, key=lambda name: scores[name], default=BASE)
        if scores and scores[best] >= self.threshold:
            return Decision(best, scores[best], "fim", scores)
        language, sure = detector.detect(f"{signals.text}\n{signals.suffix}")
        if language is not None and sure >= _LIKELY:
            return replace(self._of_language(language, "fim", sure, vector), scores=scores)
        return self._unsure(scores.get(best, 0.0), scores)

    def _content(self, text: str, vector: "_Once") -> Decision:
        scores = self._scores(vector)
        best = max(scores, key=lambda name: scores[name], default=BASE)
        if scores and scores[best] >= self.threshold:
            return Decision(None if best == BASE else best, scores[best], "activations", scores)
        # the detector takes longer than the rest, so it is asked only where it is needed
        language, sure = detector.detect(_code_of(text))
        if language is not None and sure >= _LIKELY:
            return replace(self._of_language(language, "detector", sure, vector), scores=scores)
        return self._named(text, scores) or self._unsure(scores.get(best, 0.0), scores)

    def _named(self, text: str, scores: dict[str, float]) -> Decision | None:
        """The sub-model for the one language that a text names in words, if it does and there is one."""
        named = languages_in_words(text)
        if len(named) != 1:
            return None
        decision = self._of_language(named[0], "mention", 1.0, _Once(self._vector, Signals(text)))
        return (
            None
            if decision.name is None
            else replace(decision, confidence=max(scores.values(), default=0.0), scores=scores)
        )

    def _unsure(self, confidence: float, scores: dict[str, float]) -> Decision:
        return Decision(self.default, confidence, "default", scores)

    def _vector(self, signals: Signals) -> np.ndarray:
        assert self.activations is not None
        text = signals.text if signals.suffix is None else f"{signals.text}\n{signals.suffix}"
        return self.activations.pooler.pool(text)[None].astype(np.float64)

    def _scores(self, vector: "_Once") -> dict[str, float]:
        if self.activations is None:
            return {}
        probabilities = self.activations.discriminant.probabilities(vector())[0]
        labels = self.activations.discriminant.labels
        return {BASE if label is None else label: float(p) for label, p in zip(labels, probabilities, strict=True)}


class _Once:
    """A request's vector, made when it is first needed."""

    def __init__(self, make: Callable[[Signals], np.ndarray], signals: Signals):
        self._make, self._signals = make, signals
        self._vector: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._vector is None:
            self._vector = self._make(self._signals)
        return self._vector


def _explicit(signals: Signals) -> list[tuple[str, str | None]]:
    """(signal, language) of what the request states outright, the strongest first."""
    tags = [language_named(tag) for tag, _ in reversed(fences(signals.text)) if tag]
    return [
        ("header", language_named(signals.language) if signals.language else None),
        ("file", language_of_file(signals.file) if signals.file else None),
        ("fence", next((tag for tag in tags if tag is not None), None)),
    ]


def _code_of(text: str) -> str:
    """The code of the last fenced block that holds any, else all of the text."""
    return next((code for _, code in reversed(fences(text)) if code.strip()), text)


def open_router(
    store: Store,
    base: Base | None = None,
    *,
    threshold: float | None = None,
    default: str | None = None,
) -> Router:
    """The router of a store.

    Args:
        store: with or without statistics for routing: without, explicit signals and the detector decide alone.
        base: the store's base if it is open already; opened and checked only where it is needed.
        threshold: less confidence than this goes to the default; the store's own if None.
        default: a sub-model's name, or None for the base.

    Raises:
        SubmodelError: an unknown default, a threshold outside 0 to 1, damaged statistics, no base.
    """
    names = tuple(store.names)
    if default is not None and default not in names:
        raise unknown_name(f"sub-model of {store.path}", default, names)
    threshold = read_threshold(store) if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise SubmodelError(f"threshold {threshold}: give a probability from 0 to 1")
    # what the store knows of each sub-model
    profiles = {name: profile.read(store, name) for name in names}
    languages = {
        name: fitted.languages if fitted else tuple(languages_of(name, store.manifest(name)["calibration"]))
        for name, fitted in profiles.items()
    }
    # of sub-models with the same statistics the newest stands for all
    newest: dict[str, str] = {}
    same: dict[str, str] = {name: name for name in names}
    for name in reversed(names):
        if fitted := profiles[name]:
            same[name] = newest.setdefault(_digest(fitted), name)
    groups: dict[str | None, dict[str, np.ndarray]] = {
        name: fitted.vectors for name, fitted in profiles.items() if fitted and same[name] == name
    }
    # the discriminant, with the background as the label of the base
    activations = None
    if groups and (background := profile.read(store, None)):
        # requests that name a language are background only where no sub-model is for it
        covered = {language for of_one in languages.values() for language in of_one}
        groups[None] = {
            kind: vectors
            for kind, vectors in background.vectors.items()
            if not {kind.partition(".")[2], RELATED.get(kind.partition(".")[2])} & covered
        }
        activations = Activations(fit(groups), Pooler(base or open_store_base(store)))
    missing = tuple(name for name, fitted in profiles.items() if fitted is None)
    return Router(names, languages, same, activations, threshold, default, missing)


def _digest(fitted: profile.Profile) -> str:
    digest = hashlib.sha256()
    for kind in sorted(fitted.vectors):
        digest.update(kind.encode() + fitted.vectors[kind].tobytes())
    return digest.hexdigest()
