"""Text to calibrate on: named sets, own files, source trees, mixtures -> token samples with their provenance."""

from submodel.calibration.catalogue import ALIASES, DOMAINS
from submodel.calibration.contamination import Problems, problem_text
from submodel.calibration.documents import Document, Split, Text, parse_spec, read_documents, read_text
from submodel.calibration.domains import Domain, TextSource, load_domain
from submodel.calibration.packing import Budget, TooLittleText, load_samples, pack, pack_documents, tokens_in
from submodel.calibration.rebuild import rebuild
from submodel.calibration.repository import read_repository
from submodel.calibration.samples import Provenance, Samples, parts_of, text_read, with_openings
from submodel.calibration.seen import rows_seen
from submodel.calibration.specs import is_named_split, parse_domains, read_held_out
from submodel.calibration.trees import LANGUAGES, is_held_out

__all__ = [
    "ALIASES",
    "DOMAINS",
    "LANGUAGES",
    "Budget",
    "Document",
    "Domain",
    "Problems",
    "Provenance",
    "Samples",
    "Split",
    "Text",
    "TextSource",
    "TooLittleText",
    "is_held_out",
    "is_named_split",
    "load_domain",
    "load_samples",
    "pack",
    "pack_documents",
    "parse_domains",
    "parse_spec",
    "parts_of",
    "problem_text",
    "read_documents",
    "read_held_out",
    "read_repository",
    "rebuild",
    "read_text",
    "rows_seen",
    "text_read",
    "tokens_in",
    "with_openings",
]
