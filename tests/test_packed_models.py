"""Packed models of every family against dense models with zeros, and packed checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.base.weights import Safetensors, write_tensors
from submodel.calibration import load_samples
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.prune.mask import pack_bits
from submodel.runtime import load
from submodel.runtime.packed.formats import SURVIVORS
from submodel.runtime.packed.linear import PackedEmbedding, PackedLinear, packed_matrices
from submodel.store import Mask, Store, open_or_create
from submodel.store.base import open_store_base
from submodel.tasks import evaluate, parse_task
from submodel.tasks.cell import Settings
from submodel.tasks.perplexity import from_losses, window_losses
from tests import tiny

RECIPE = {"method": "magnitude", "sparsity": 0.5, "pattern": "unstructured", "created": "2026-01-01T00:00:00"}
RECIPE["calibration"] = None  # type: ignore[assignment]


def store_of(folder: Path, family: str) -> str:
    """A bfloat16 model of a family, and a store with one random sub-model `half` of it."""
    model = tiny.save(family, folder / family, torch.bfloat16)
    base = open_base(str(model))
    rng = np.random.default_rng(0)
    prefix, blocks = blocks_of(empty := base.skeleton(torch.bfloat16))
    del empty
    kept = {
        matrix.name: Mask(pack_bits(rng.random(matrix.weight.shape) < 0.5), matrix.weight.shape[-1])
        for i, block in enumerate(blocks)
        for matrix in matrices_of(block, f"{prefix}.{i}")
    }
    about = {"reference": str(model), "sha256": base.sha256, "size_bytes": base.source.size_bytes}
    open_or_create(folder / "store", about).add("half", kept, RECIPE)
    return f"{folder / 'store'}@half"


def _logits(model: Any, length: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(tiny.ids(1, length)).logits


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_every_family(family: str, tmp_path: Path):
    """bf16 gives the logits of the dense model with zeros, bit for bit where the dense product is used."""
    reference = store_of(tmp_path, family)
    zeros, packed = load(reference), load(reference, weight_format="bf16")
    assert len(dict(packed_matrices(packed.model))) >= len(zeros.manifest["matrices"])  # type: ignore[index]
    if family not in tiny.MIXTURES:  # an expert may get few rows
        assert torch.equal(_logits(packed.model, 40), _logits(zeros.model, 40))
    exact = _logits(zeros.model.float(), 6)
    for name, most in {"bf16": 0.03, "int8": 0.1, "int4": 0.6}.items():
        found = _logits(load(reference, weight_format=name).model, 6)
        assert (found - exact).norm() <= most * exact.norm(), (name, float((found - exact).norm() / exact.norm()))


def test_the_base_has_dense_counterparts(tmp_path: Path):
    store_of(tmp_path, "llama")
    for name, kind in {"dense": "dense", "bf16": "dense", "int8": "dense-int8", "int4": "dense-int8"}.items():
        loaded = load(str(tmp_path / "llama"), weight_format=name)
        assert {packed.format for _, parts in packed_matrices(loaded.model) for packed in parts} == {kind}


def test_a_dense_sub_model_has_zeros(tmp_path: Path):
    """A dense format of a sub-model is not its base."""
    reference = store_of(tmp_path, "llama")
    zeros = load(reference)
    assert torch.equal(_logits(load(reference, weight_format="dense").model, 40), _logits(zeros.model, 40))
    found = _logits(load(reference, weight_format="dense-int8").model, 40)
    assert (found - _logits(zeros.model, 40)).norm() <= 0.1 * found.norm()


def test_a_tied_embedding_reads_the_8_bit_head(tmp_path: Path):
    model: Any = load(store_of(tmp_path, "llama"), weight_format="int8").model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, PackedEmbedding) and isinstance(head, PackedLinear)
    assert embedding.packed is head.packed
    dense: Any = load(str(tmp_path / "llama")).model
    ids = torch.tensor([[0, 5], [258, 1]])
    assert torch.allclose(embedding(ids).float(), dense.get_input_embeddings()(ids).float(), atol=0.02, rtol=0.02)


def test_equal_embedding_and_head_are_kept_once(tmp_path: Path):
    """Some checkpoints hold a tied matrix twice."""
    folder = tiny.save("qwen2", tmp_path / "twice", torch.bfloat16)
    source = Safetensors([folder / "model.safetensors"])
    tensors = {name: source.get(name) for name in source.names}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    dense: Any = load(str(folder), weight_format="dense").model
    assert dense.lm_head.packed.values.data_ptr() == dense.model.embed_tokens.weight.data_ptr()
    small: Any = load(str(folder), weight_format="int8").model
    assert small.lm_head.packed is small.model.embed_tokens.packed


def test_refusals(tmp_path: Path):
    reference = store_of(tmp_path, "llama")
    with pytest.raises(SubmodelError, match="unknown weight format 'int9'"):
        load(reference, weight_format="int9")
    with pytest.raises(SubmodelError, match="compute in bfloat16 on the cpu"):
        load(reference, weight_format="int8", dtype=torch.float32)


def export(reference: str, out: Path, form: str) -> None:
    store, _, name = reference.rpartition("@")
    opened = Store(Path(store))
    export_directory(open_store_base(opened), opened.masks(name), out, form, opened.manifest(name))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "opt", "qwen3_moe"])
@pytest.mark.parametrize("name", SURVIVORS)
def test_a_checkpoint_is_the_model(family: str, name: str, tmp_path: Path):
    reference = store_of(tmp_path, family)
    export(reference, tmp_path / "out", f"packed-{name}")
    packed, opened = load(reference, weight_format=name), load(str(tmp_path / "out"))
    assert opened.name == "half" and opened.weight_format == name
    assert opened.manifest and opened.manifest["masks"] == packed.manifest["masks"]  # type: ignore[index]
    for length in (1, 40):
        assert torch.equal(_logits(opened.model, length), _logits(packed.model, length))


def test_an_opened_checkpoint_lies_in_the_file(tmp_path: Path):
    """Its tensors are a mapping of the file: on Linux the process's maps name it, and nothing is copied."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux")
    export(store_of(tmp_path, "llama"), tmp_path / "out", "packed-int8")
    model = load(str(tmp_path / "out")).model
    lines = [line.split() for line in maps.read_text().splitlines() if "out/packed.safetensors" in line]
    ranges = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    assert ranges
    for _, parts in packed_matrices(model):
        for tensor in parts[0].tensors.values():
            assert any(low <= tensor.data_ptr() < high for low, high in ranges)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path):
    """Cut anywhere, or with any byte changed: one line, and no kernel sees it."""
    export(store_of(tmp_path, "llama"), tmp_path / "out", "packed-int4")
    rng = np.random.default_rng(0)
    for name in ("packed.safetensors", "packed.json"):
        file = tmp_path / "out" / name
        whole = file.read_bytes()
        for cut in [0, 7, *rng.integers(8, len(whole), 10).tolist(), len(whole) - 2]:
            file.write_bytes(whole[:cut])
            with pytest.raises(SubmodelError, match="^[^\n]*$"):
                load(str(tmp_path / "out"))
        if name == "packed.safetensors":
            for at in rng.integers(0, len(whole), 20).tolist():
                file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
                with pytest.raises(SubmodelError, match="^[^\n]*$"):
                    load(str(tmp_path / "out"))
        file.write_bytes(whole)
    load(str(tmp_path / "out"))


def test_a_forged_digest_does_not_help(tmp_path: Path):
    """A file whose digest fits but whose parts do not fit each other is refused before it is used."""
    export(store_of(tmp_path, "llama"), tmp_path / "out", "packed-int8")
    weights, about = tmp_path / "out/packed.safetensors", tmp_path / "out/packed.json"
    document = json.loads(about.read_text())
    matrix = next(name for name, entry in document["matrices"].items() if entry["format"] == "int8")
    source = Safetensors([weights])
    tensors = {name: source.get(name) for name in source.names}
    for part, change in {
        "starts": lambda t: t + 1000,
        "mask": lambda t: torch.full_like(t, -1),
        "values": lambda t: t[:-1],
        "scales": lambda t: t[:1],
    }.items():
        name = f"{matrix}.{part}"
        write_tensors(weights, {**tensors, name: change(tensors[name]).contiguous()})
        about.write_text(json.dumps({**document, "sha256": Safetensors([weights]).sha256()}))
        with pytest.raises(SubmodelError, match="is damaged"):
            load(str(tmp_path / "out"))


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference = store_of(tmp_path, "llama")
    out = str(tmp_path / "out")
    assert main(["export", reference, "--out", out, "--format", "packed-int8"]) == 0
    texts = []
    for options in ([reference, "--format", "int8"], [out]):
        capsys.readouterr()
        assert main(["generate", *options, "--prompt", "ab", "--max-tokens", "8", "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
    text = tmp_path / "text.txt"
    text.write_text("some words to read " * 40)
    rows = str(tmp_path / "rows.jsonl")
    command = [
        "eval",
        reference,
        "--task",
        f"perplexity:{text}",
        "--out",
        rows,
        "--seq-len",
        "64",
        "--tokens",
        "512",
        "--json",
    ]
    values = []
    for form in ([], ["--format", "bf16"], ["--format", "int8"]):
        capsys.readouterr()
        assert main([*command, *form]) == 0
        [row] = json.loads(capsys.readouterr().out)["rows"]
        assert row["settings"].get("format") == (form[1] if form else None)
        values.append(row["value"])
    assert values[0] == pytest.approx(values[1], rel=0.01) and values[0] == pytest.approx(values[2], rel=0.05)
    assert main(["generate", out, "--format", "int8", "--prompt", "a"]) == 2


@pytest.mark.parametrize("form", ["bf16", "int8", None])
def test_perplexity_with_the_arithmetic_of_decoding(form: str | None, tmp_path: Path):
    """Token by token it is that of whole windows, but for rounding; a row says which it was."""
    reference = store_of(tmp_path, "llama")
    text = tmp_path / "text.txt"
    text.write_text("some words to read " * 60)
    task, rows = parse_task(f"perplexity:{text}"), tmp_path / "rows.jsonl"
    found = [
        next(evaluate([reference], [task], rows, Settings(tokens=448, seq_len=64, weight_format=form, decode=decode)))
        for decode in (False, True)
    ]
    assert [row.settings.get("arithmetic") for row in found] == [None, "decoding"]
    assert found[1].n == found[0].n and found[1].value == pytest.approx(found[0].value, rel=0.01)
    exact = load(reference).model.float()
    samples = load_samples("t", str(text), load(reference).tokenizer, samples=7, seq_len=64, seed=0, split="held-out")
    losses = window_losses(exact, samples)
    assert found[1].value == pytest.approx(from_losses(losses, 63).value, rel=0.02)
