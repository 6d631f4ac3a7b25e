"""Token samples of a domain and where they come from."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from submodel.calibration.documents import Document


@dataclass(frozen=True)
class Provenance:
    """Where samples come from; goes into the manifest as `as_dict` gives it.

    Attributes:
        path, column, split: what was read (`column` is the language for a source tree); of a mixture `path` is its
            recipe, and its parts say the rest.
        rows: file -> the row indices that take part.
        sha256_rows: file -> SHA-256 over the texts of those rows.
        tokens, documents: how much took part.
        sha256_tokens: SHA-256 of the samples without padding, int64 little-endian, sample by sample.
        shape: what differs from packed raw text: `shape`, `form`.
        about: of a named set `set`: its name, its place on the hub, what stands in for it; of a repository
            `repository`: its commit, its files by language, and how many were left out and why; of other text
            `left_out`: how many of its rows or files, and why.
        parts: of a mixture: for each part its name, weight, tokens and these same keys.
    """

    path: str
    column: str | None
    split: str
    seed: int
    seq_len: int
    samples: int
    tokens: int
    documents: int
    rows: dict[str, list[int]]
    sha256_rows: dict[str, str]
    sha256_tokens: str
    shape: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The manifest's `calibration`; keys that hold nothing are left out."""
        fields = asdict(self)
        shape, about, parts = fields.pop("shape"), fields.pop("about"), fields.pop("parts")
        return {**fields, **shape, **about, **({"parts": list(parts)} if parts else {})}


def parts_of(calibration: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The parts of a manifest's `calibration`: itself where it is no mixture, none where there is none."""
    if not calibration:
        return []
    return list(calibration.get("parts") or [calibration])


def text_read(manifest: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """All text that a sub-model was made from, as of a mixture: of its calibration, and whose tokens were counted."""
    manifest = manifest or {}
    parts = [*parts_of(manifest.get("calibration")), *manifest.get("vocabulary", {}).get("counted", ())]
    return {"parts": parts} if parts else None


@dataclass(frozen=True, repr=False)
class Samples:
    """Token samples of one domain: `ids` int64 (samples, seq_len).

    `lengths`, if there, says how many tokens of each sample are real; the rest is padding, which is never
    computed. Packed samples have no padding and no lengths. `weights`, if there, float32 of `ids`' shape, are what
    tokens count for in a statistic. `openings`, if there, int64 (count,), are tokens that each open a sequence of
    their own (see `with_openings`). `documents` are those that take part, whole; `contamination` is what
    `contamination.Problems` found of them, `settling` how their number was found (see `prune.settle`).
    """

    name: str
    ids: torch.Tensor
    provenance: Provenance | None = None
    lengths: tuple[int, ...] | None = None
    openings: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    documents: tuple[Document, ...] = ()
    contamination: Mapping[str, Any] | None = None
    settling: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.ids)} samples of {self.ids.shape[1]} tokens>"

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many tokens of each sample are real."""
        return self.lengths or (self.ids.shape[1],) * len(self.ids)

    @property
    def tokens(self) -> torch.Tensor:
        """The real ones, int64 (tokens,), sample by sample."""
        if self.lengths is None:
            return self.ids.flatten()
        return torch.cat([ids[:length] for ids, length in zip(self.ids, self.lengths, strict=True)])

    @property
    def digest(self) -> str:
        """SHA-256 of the real tokens, their division into samples, and what they count for."""
        weights = b"" if self.weights is None else self.weights.numpy().tobytes()
        return hashlib.sha256(self.tokens.numpy().tobytes() + repr(self.sizes).encode() + weights).hexdigest()

    def take(self, chosen: slice) -> "Samples":
        """Some of the samples."""
        return replace(
            self,
            ids=self.ids[chosen],
            lengths=self.lengths and self.lengths[chosen],
            weights=None if self.weights is None else self.weights[chosen],
        )

    def first(self, tokens: int) -> "Samples":
        """The first samples that have at least so many tokens together; all, if they have fewer."""
        return self.take(slice(int((torch.tensor(self.sizes).cumsum(0) < tokens).sum()) + 1))

    @property
    def parts(self) -> list[Mapping[str, Any]]:
        """The parts of what its manifest will say (see `parts_of`)."""
        return parts_of(self.provenance.as_dict() if self.provenance else None)


def with_openings(samples: Samples, count: int, vocabulary: int) -> Samples:
    """Add sequences of one token, as what a sequence may open with.

    Many models park attention on the first token, whose hidden state some early block makes huge, whatever the token
    is. Calibration text shows as many first tokens as it has samples; a model pruned by it may fail on any other. The
    first position sees nothing but its own token, so one-token sequences show it completely.

    Args:
        samples: the text.
        count: how many tokens: the most frequent ones of the samples, then others at random (seed 0).
        vocabulary: tokens are below this.
    """
    tokens, uses = samples.tokens.unique(return_counts=True)
    frequent = tokens[uses.argsort(descending=True, stable=True)]
    others = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0))
    others = others[~torch.isin(others, frequent)]
    return replace(samples, openings=torch.cat([frequent, others])[:count])
