"""Text to calibrate on: named sets, own files, source trees, mixtures -> token samples with their provenance."""

from submodel.calibration.catalogue import ALIASES, DOMAINS
from submodel.calibration.documents import Document, Split, Text, parse_spec, read_documents, read_text
from submodel.calibration.domains import Domain, load_domain, parse_domains
from submodel.calibration.packing import Budget, load_samples, pack, pack_documents, tokens_in
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Provenance, Samples, parts_of, stand_ins, with_openings
from submodel.calibration.trees import LANGUAGES, is_held_out

__all__ = [
    "ALIASES",
    "DOMAINS",
    "LANGUAGES",
    "Budget",
    "Document",
    "Domain",
    "Provenance",
    "Samples",
    "Split",
    "Text",
    "is_held_out",
    "load_domain",
    "load_samples",
    "pack",
    "pack_documents",
    "parse_domains",
    "parse_spec",
    "parts_of",
    "read_documents",
    "read_repository",
    "read_text",
    "stand_ins",
    "tokens_in",
    "with_openings",
]
