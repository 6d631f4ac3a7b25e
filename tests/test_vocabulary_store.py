"""Vocabularies in a store: golden bytes, what is damaged, copies, comparisons, old stores."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.prune.mask import Mask, pack_bits
from submodel.prune.vocabulary import Vocabulary
from submodel.store import FORMAT_VOCABULARY, Store, digest_of_submodel, open_or_create
from submodel.store.compare import compare_vocabularies
from submodel.store.copy import copy, remove
from submodel.store.vocabulary import read_vocabulary, write_vocabulary

BASE = {"reference": "base", "sha256": "00" * 32, "size_bytes": 10}
RECIPE = {"method": "wanda", "sparsity": 0.5, "pattern": "unstructured", "created": "2026-01-01T00:00:00"}
MASKS = {"w": Mask(pack_bits(np.eye(2, 10, dtype=bool)), 10)}
HEAD, CUT = np.array([0, 3, 9]), np.array([0, 1, 3, 8, 9])
TOKENS = Vocabulary.of(10, HEAD, CUT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_or_create(tmp_path / "store", BASE)
    store.add("all", MASKS, RECIPE)
    store.add("some", MASKS, {**RECIPE, "vocabulary": {"loss": 0.005, "head": {"loss": 0.004}}}, TOKENS)
    return store


def test_golden_bytes(store: Store):
    """docs/reference/format.md, byte by byte. A change here is a new format version."""
    cut, head = bytes([0b00001011, 0b11]), bytes([0b00001001, 0b10])
    header = b'{"cut":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"head":{"dtype":"U8","shape":[2],'
    header += b'"data_offsets":[2,4]}}'
    header += b" " * (-len(header) % 8)
    written = (store.path / "submodels/some/vocabulary.safetensors").read_bytes()
    assert written == len(header).to_bytes(8, "little") + header + cut + head
    digests = {kind: hashlib.sha256(data).hexdigest() for kind, data in (("cut", cut), ("head", head))}
    manifest = json.loads((store.path / "submodels/some/manifest.json").read_text())
    assert manifest["format"] == FORMAT_VOCABULARY == 3
    lines = f"cut [10] {digests['cut']}\nhead [10] {digests['head']}\n"
    assert manifest["vocabulary"] == {
        "loss": 0.005,
        "rows": 10,
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "cut": {"kept": 5, "sha256": digests["cut"]},
        "head": {"loss": 0.004, "kept": 3, "sha256": digests["head"]},
    }


def test_what_is_read(store: Store):
    vocabulary = store.vocabulary("some")
    assert vocabulary is not None and store.vocabulary("all") is None
    assert vocabulary.ids().tolist() == HEAD.tolist() and vocabulary.ids("cut").tolist() == CUT.tolist()
    assert (vocabulary.count(), vocabulary.count("cut"), vocabulary.rows) == (3, 5, 10)
    assert store.size_bytes("some") > store.size_bytes("all")


def test_a_vocabulary_makes_another_sub_model_of_the_same_masks(store: Store):
    one, other = store.manifest("all"), store.manifest("some")
    assert one["format"] == 1 and one["masks"]["sha256"] == other["masks"]["sha256"]
    assert digest_of_submodel(other) == f"{digest_of_submodel(one)}+{other['vocabulary']['sha256']}"


def _altered(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0b100
    file.write_bytes(bytes(data))


def _manifest(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    document["vocabulary"] |= changes
    file.write_text(json.dumps(document))


def _digest(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["vocabulary"]["cut"]["sha256"]


DAMAGES = {
    "cut short": lambda p: (p / "vocabulary.safetensors").write_bytes(
        (p / "vocabulary.safetensors").read_bytes()[:-1]
    ),
    "no file": lambda p: (p / "vocabulary.safetensors").unlink(),
    "another bit of the head": lambda p: _altered(p / "vocabulary.safetensors", -2),
    "another bit of the cut": lambda p: _altered(p / "vocabulary.safetensors", -4),
    "a bit past the rows": lambda p: _altered(p / "vocabulary.safetensors", -1),
    "a masks file": lambda p: shutil.copyfile(p / "masks.safetensors", p / "vocabulary.safetensors"),
    "other rows": lambda p: _manifest(p, rows=18),
    "another digest": lambda p: _manifest(p, sha256="00" * 32),
    "another count": lambda p: _manifest(p, cut={"kept": 4, "sha256": _digest(p)}),
    "no rows": lambda p: _manifest(p, rows=None),
    "an older format": lambda p: (p / "manifest.json").write_text(
        (p / "manifest.json").read_text().replace('"format": 3', '"format": 1')
    ),
    "no entry": lambda p: (p / "manifest.json").write_text(
        (p / "manifest.json").read_text().replace('"vocabulary"', '"other"')
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_vocabulary_is_refused_in_one_line(store: Store, damage: str):
    DAMAGES[damage](store.path / "submodels/some")
    with pytest.raises(SubmodelError) as refusal:
        Store(store.path).vocabulary("some")
    assert "\n" not in str(refusal.value)


def test_copied_with_its_recipe_and_removed(store: Store, tmp_path: Path):
    out = tmp_path / "copy"
    assert copy([(store, "some")], out, ["other"]) == [] and copy([(store, "some")], out, ["other"]) == ["other"]
    copied = Store(out)
    vocabulary = copied.vocabulary("other")
    assert vocabulary is not None and vocabulary.ids().tolist() == HEAD.tolist()
    assert copied.manifest("other")["vocabulary"] == store.manifest("some")["vocabulary"]
    with pytest.raises(SubmodelError, match="another one is there"):
        copy([(store, "all")], out, ["other"])
    remove(copied, "other")
    assert not copied.names and not list(out.glob("submodels/*"))


def test_compared():
    other = Vocabulary.of(10, np.array([3, 4]), CUT)
    overlaps = compare_vocabularies(TOKENS, other)
    assert (overlaps["head"].both, overlaps["head"].differ, overlaps["head"].either) == (1, 3, 4)
    assert overlaps["cut"].jaccard_distance == 0 and overlaps["head"].jaccard_distance == 0.75
    assert compare_vocabularies(TOKENS, None) == {}
    with pytest.raises(SubmodelError, match="not of one base"):
        compare_vocabularies(TOKENS, Vocabulary.of(20, HEAD, CUT))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 259, 151_936])
def test_round_trip(tmp_path: Path, rows: int):
    rng = np.random.default_rng(rows)
    head, cut = (np.flatnonzero(rng.random(rows) < part) for part in (0.3, 0.6))
    write_vocabulary(tmp_path / "v", Vocabulary.of(rows, head, cut))
    read = read_vocabulary(tmp_path / "v", rows)
    assert read.ids("head").tolist() == head.tolist() and read.ids("cut").tolist() == cut.tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["v"]
