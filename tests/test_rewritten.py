"""Sub-models with weights of their own: stored, verified, loaded, exported, evaluated, compared, and after a kill."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from submodel.base.matrices import Matrix, blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.prune.scores import SCORES
from submodel.prune.scores.score import Part
from submodel.prune.scores.sparsegpt import SPARSEGPT
from submodel.prune.sparsity import RowSparsity
from submodel.prune.statistics import Gram
from submodel.runtime import load
from submodel.runtime.packed.linear import packed_matrices
from submodel.runtime.packed.matrix import unpack
from submodel.store import FORMAT, FORMAT_REWRITTEN, Store
from submodel.store.verify import verify
from tests import tiny
from tests.test_cli import extract_options, run

REWRITING = [
    "sparsegpt",
    *(f"{name}+reconstruct" for name in SCORES),
    *(f"{name}+reconstruct+distil" for name in ("wanda", "ria", "swaps", "pursuit")),
]
SAMPLES = Samples("d", tiny.ids(5, 24))


@pytest.fixture(scope="module")
def store(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wanda, and d by wanda+reconstruct, of one base."""
    out = tmp_path_factory.mktemp("rewritten") / "store"
    base = open_base(str(llama))
    extract(base, [Samples("wanda", SAMPLES.ids)], out, method="wanda", dtype=torch.float32)
    extract(base, [SAMPLES], out, method="wanda+reconstruct", dtype=torch.float32)
    return out


@pytest.mark.parametrize("method", REWRITING)
def test_every_rewriting_method_is_stored_loaded_and_exported(method: str, llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    extract(base, [SAMPLES], tmp_path / "store", method=method, dtype=torch.float32)
    verify(tmp_path / "store")
    masks = Store(tmp_path / "store").masks("d")
    ours, dense = load(f"{tmp_path / 'store'}@d").model, dict(base.load().named_parameters())
    changed = 0
    for name, weight in ours.named_parameters():
        if name not in masks:
            assert torch.equal(weight, dense[name])
            continue
        keep = torch.from_numpy(masks[name].unpack())
        read = masks[name].values
        assert read is not None and torch.equal(weight[keep], read()) and (weight[~keep] == 0).all()
        changed += int((weight != dense[name])[keep].sum())
    assert changed > 1000
    export_directory(base, masks, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain(SAMPLES.ids).logits, ours(SAMPLES.ids).logits)


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_experts_without_tokens_keep_their_values(family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model", torch.bfloat16)))
    few = Samples("d", tiny.ids(1, 2))
    extract(base, [few], tmp_path / "store", method="sparsegpt")
    store = Store(tmp_path / "store")
    unseen = [name for name in store.manifest("d")["unseen_experts"] if name.endswith("gate_up_proj[0]")]
    ours, dense = load(f"{tmp_path / 'store'}@d").model, base.load()
    assert ours.dtype == torch.bfloat16
    for name in unseen:
        matrix = name.removesuffix("[0]")
        keep = torch.from_numpy(store.masks("d")[matrix].unpack()[0])
        assert torch.equal(ours.get_parameter(matrix)[0], dense.get_parameter(matrix)[0] * keep)
    export_directory(base, store.masks("d"), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", experts_implementation="eager")
    assert torch.equal(plain(SAMPLES.ids).logits, ours(SAMPLES.ids).logits)


@pytest.mark.parametrize("family", ["llama", *tiny.MIXTURES])
def test_packed_holds_the_new_weights(family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / "model", torch.bfloat16)))
    extract(base, [SAMPLES], tmp_path / "store", method="wanda+reconstruct")
    reference = f"{tmp_path / 'store'}@d"
    plain = load(reference).model
    packed = dict(packed_matrices(load(reference, weight_format="bf16").model))
    for name in Store(tmp_path / "store").masks("d"):
        weight = plain.get_parameter(name)
        experts = weight if weight.dim() == 3 else weight[None]
        for expert, held in zip(experts, packed[name], strict=True):
            assert torch.equal(unpack(held), expert)


def test_the_next_block_sees_what_the_new_weights_give(llama: Path, tmp_path: Path):
    """Block 2's weights are those that its inputs in the loaded sub-model, blocks 0 and 1 rewritten, lead to."""
    base = open_base(str(llama))
    extract(base, [SAMPLES], tmp_path / "store", method="sparsegpt", dtype=torch.float32)
    ours, dense = load(f"{tmp_path / 'store'}@d").model, base.load()
    prefix, blocks = blocks_of(ours)
    matrix: Matrix = matrices_of(blocks[2], f"{prefix}.2")[0]
    gram = Gram(36, torch.device("cpu"))
    matrix.module.register_forward_pre_hook(lambda _, args: gram.update(args[0].reshape(-1, 36)))
    with torch.no_grad():
        ours(SAMPLES.ids)
    weight = dense.get_parameter(matrix.name).detach()
    expected = SPARSEGPT.prune(weight, SPARSEGPT.prepare(weight, gram), RowSparsity(0.5), Part("w")).weight
    torch.testing.assert_close(matrix.weight.detach(), expected, rtol=1e-3, atol=1e-4)


def test_the_walk_goes_on_with_the_weights_as_they_are_stored(tmp_path: Path):
    """A bfloat16 base walked in float32: the new weights that the walk runs are those that are loaded, rounded."""
    base = open_base(str(tiny.save("llama", tmp_path / "model", torch.bfloat16)))
    extract(base, [SAMPLES], tmp_path / "store", method="sparsegpt", dtype=torch.float32)
    entries = Store(tmp_path / "store").manifest("d")["matrices"]
    assert {entry["values"]["dtype"] for entry in entries.values()} == {"BF16"}


def test_the_manifest_says_it(store: Path):
    masked, rewritten = (Store(store).manifest(name) for name in ("wanda", "d"))
    assert (masked["format"], rewritten["format"]) == (FORMAT, FORMAT_REWRITTEN)
    assert "weights" not in masked and len(rewritten["weights"]["sha256"]) == 64
    for entry in rewritten["matrices"].values():
        kept = round((1 - entry["sparsity"]) * entry["shape"][0] * entry["shape"][1])
        assert entry["values"]["count"] == kept and entry["values"]["dtype"] == "F32"
    assert not (store / "submodels/wanda/weights.safetensors").exists()


def test_a_sub_model_of_the_same_masks_is_told_apart(store: Path):
    """Results of a sub-model are found by its digest: other weights, another sub-model."""
    masked, rewritten = (load(f"{store}@{name}") for name in ("wanda", "d"))
    assert masked.digest == masked.manifest["masks"]["sha256"] if masked.manifest else None
    assert rewritten.digest and "+" in rewritten.digest


def test_the_command_line(llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    out, rows = tmp_path / "s", tmp_path / "rows.jsonl"
    assert run(capsys, *extract_options(llama, texts, out), "--method", "ria+reconstruct")[0] == 0
    assert run(capsys, *extract_options(llama, texts, out), "--name", "a", "--name", "b")[0] == 0
    assert "own weights" in run(capsys, "list", out)[1]
    assert "own weights" in run(capsys, "info", f"{out}@python")[1]
    assert "own weights" not in run(capsys, "info", f"{out}@a")[1]
    status, found, _ = run(capsys, "verify", out)
    assert status == 0 and "own weights whole" in found
    assert run(capsys, "compare", f"{out}@python", f"{out}@a")[0] == 0
    assert run(capsys, "generate", f"{out}@python", "--prompt", "x", "--max-tokens", 2)[0] == 0
    held_out = tiny.write_jsonl(tmp_path / "held-out.jsonl", "other")
    options = ["--task", f"perplexity:{held_out}:text", "--out", rows, "--limit", 2, "--seq-len", 32]
    assert run(capsys, "eval", f"{out}@python", f"{out}@a", *options)[0] == 0
    values = [json.loads(line)["value"] for line in rows.read_text().splitlines()]
    assert len(values) == 2 and values[0] != values[1]


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "altered": lambda folder: _flip(folder / "weights.safetensors"),
    "cut short": lambda folder: (folder / "weights.safetensors").write_bytes(
        (folder / "weights.safetensors").read_bytes()[:-9]
    ),
    "absent": lambda folder: (folder / "weights.safetensors").unlink(),
    "of a mask alone": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace(f'"format": {FORMAT_REWRITTEN}', f'"format": {FORMAT}')
    ),
    "another digest": lambda folder: (folder / "manifest.json").write_text(
        (folder / "manifest.json").read_text().replace('"count": ', '"count": 1')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused_in_one_line(damage: str, store: Path, tmp_path: Path):
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    DAMAGES[damage](copy / "submodels/d")
    for use in (verify, lambda path: load(f"{path}@d")):
        with pytest.raises(SubmodelError) as refusal:
            use(copy)
        assert "\n" not in str(refusal.value)
    load(f"{copy}@wanda")
