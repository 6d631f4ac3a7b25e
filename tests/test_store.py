"""The store's format: golden bytes, round trips, and refusals of what is cut short, altered, foreign or newer."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.prune.mask import pack_bits
from submodel.store import FORMAT, Mask, Store, check_name, open_or_create, split_reference
from submodel.store.encoding import encode

BASE = {"reference": "base", "sha256": "00" * 32, "size_bytes": 10}
RECIPE = {"method": "wanda", "sparsity": 0.5, "pattern": "unstructured", "created": "2026-01-01T00:00:00"}


def _masks(seed: int = 0, flip: float = 0.0, cols: int = 257) -> dict[str, Mask]:
    rng = np.random.default_rng(0)
    found: dict[str, Mask] = {}
    for name, shape in {"a.weight": (40, cols), "b.experts": (3, 20, cols)}.items():
        mask = rng.random(shape) < 0.5
        mask ^= np.random.default_rng(seed).random(shape) < flip
        found[name] = Mask(pack_bits(mask), cols)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_or_create(tmp_path / "store", BASE)
    store.add("first", _masks(), RECIPE)
    store.add("second", _masks(1, 0.04), {**RECIPE, "created": "2026-01-02T00:00:00"})
    return store


def test_golden_bytes(tmp_path: Path):
    """docs/reference/format.md, byte by byte. A change here is a new format version."""
    kept = np.zeros((2, 10), dtype=bool)
    kept[0, [0, 3, 9]] = True
    kept[1, [1, 2, 8]] = True
    store = open_or_create(tmp_path / "store", BASE)
    store.add("m", {"w": Mask(pack_bits(kept), 10)}, RECIPE)
    header = b'{"w":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}'
    header += b" " * (-len(header) % 8)
    data = bytes([0b00001001, 0b10, 0b00000110, 0b01])
    written = (tmp_path / "store/submodels/m/masks.safetensors").read_bytes()
    assert written == len(header).to_bytes(8, "little") + header + data
    assert json.loads((tmp_path / "store/store.json").read_text()) == {
        "kind": "submodel store",
        "format": 1,
        "base": BASE,
    }
    manifest = json.loads((tmp_path / "store/submodels/m/manifest.json").read_text())
    assert manifest["masks"] == {
        "sha256": hashlib.sha256(f"w [2, 10] {hashlib.sha256(data).hexdigest()}\n".encode()).hexdigest(),
        "reference": None,
    }
    assert manifest["matrices"] == {
        "w": {"shape": [2, 10], "encoding": "bits", "sparsity": 0.7, "sha256": hashlib.sha256(data).hexdigest()}
    }


def test_golden_gap_code():
    """Differences at bits 0, 3 and 300: gaps 0, 2, 296 = escape + 41, as bytes under Zstandard."""
    import zstandard

    bits = np.zeros(320, dtype=np.uint8)
    bits[[0, 3, 300]] = 1
    packed = np.packbits(bits, bitorder="little").reshape(2, 20)
    assert zstandard.ZstdDecompressor().decompress(encode(packed)) == bytes([0, 2, 255, 41])


def test_round_trip(store: Store):
    assert store.names == ["first", "second"]
    for name, expected in (("first", _masks()), ("second", _masks(1, 0.04))):
        found = store.masks(name)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[m].unpack(), expected[m].unpack()) for m in expected)
    assert store.manifest("second")["masks"]["reference"] == "first"
    assert store.size_bytes("second") < 0.5 * store.size_bytes("first")


def test_masks_of_other_shapes_stand_alone(store: Store):
    manifest = store.add("third", _masks(cols=99), RECIPE)
    assert manifest["masks"]["reference"] is None


def test_a_taken_name_and_a_bad_name(store: Store):
    with pytest.raises(SubmodelError, match="already there"):
        store.add("first", _masks(), RECIPE)
    for name in ("", "../x", "a b", ".hidden", "a/b", "a@b"):
        with pytest.raises(SubmodelError):
            check_name(name)


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


DAMAGES = {
    "cut short": lambda p: (p / "submodels/first/masks.safetensors").write_bytes(
        (p / "submodels/first/masks.safetensors").read_bytes()[:-9]
    ),
    "altered": lambda p: (p / "submodels/first/masks.safetensors").write_bytes(
        (p / "submodels/first/masks.safetensors").read_bytes()[:-1] + b"\x55"
    ),
    "altered reference": lambda p: (p / "submodels/first/masks.safetensors").write_bytes(
        (p / "submodels/first/masks.safetensors").read_bytes()[:-1] + b"\x55"
    ),
    "manifest of no JSON": lambda p: (p / "submodels/first/manifest.json").write_text("{"),
    "altered manifest": lambda p: _edit(p / "submodels/first/manifest.json", matrices={"a.weight": {}}),
    "newer store": lambda p: _edit(p / "store.json", format=FORMAT + 1),
    "newer manifest": lambda p: _edit(p / "submodels/first/manifest.json", format=FORMAT + 1),
    "foreign": lambda p: _edit(p / "store.json", kind="something else"),
    "no store": lambda p: (p / "store.json").unlink(),
    "no masks": lambda p: (p / "submodels/first/masks.safetensors").unlink(),
    "no such sub-model": lambda p: shutil.rmtree(p / "submodels/first"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_in_one_line(store: Store, damage: str):
    DAMAGES[damage](store.path)
    with pytest.raises(SubmodelError) as refusal:
        dict(Store(store.path).masks("second" if "reference" in damage else "first"))
    assert "\n" not in str(refusal.value)


def test_another_base_is_refused(store: Store):
    with pytest.raises(SubmodelError, match="another base"):
        open_or_create(store.path, {**BASE, "sha256": "11" * 32})


def test_something_else_is_not_overwritten(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SubmodelError, match="something else"):
        open_or_create(tmp_path, BASE)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_references(tmp_path: Path):
    assert split_reference("a/b.store@name") == (Path("a/b.store"), "name")
    assert split_reference("a/model") is None
    folder = tmp_path / "odd@name"
    folder.mkdir()
    assert split_reference(str(folder)) is None
