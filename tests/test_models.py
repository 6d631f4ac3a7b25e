"""Bases: every family loads as transformers loads it; what cannot be a base is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from submodel.base.matrices import blocks_of, matrices_of
from submodel.base.opening import open_base
from submodel.errors import SubmodelError
from tests import tiny


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.MIXTURES])
def test_loads_as_transformers_does(family: str, tmp_path: Path):
    path = tiny.save(family, tmp_path / "m")
    base = open_base(str(path))
    model = base.load()
    ids = tiny.ids(2, 24)
    options = {"experts_implementation": "eager"} if family in tiny.MIXTURES else {}
    assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(path, **options)(ids).logits)
    name, blocks = blocks_of(model)
    outside = {n for n, _ in model.named_parameters() if not n.startswith(f"{name}.")}
    pruned = {m.name for i, block in enumerate(blocks) for m in matrices_of(block, f"{name}.{i}")}
    assert pruned and not pruned & outside
    assert all("norm" not in n and "embed" not in n for n in pruned)


def test_shards_have_one_identity(tmp_path: Path):
    whole = open_base(str(tiny.save("llama", tmp_path / "whole")))
    shards = tiny.save("llama", tmp_path / "shards", max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert open_base(str(shards)).sha256 == whole.sha256
    assert open_base(str(tiny.save("qwen2", tmp_path / "other"))).sha256 != whole.sha256


def test_hub_id_from_the_cache(llama: Path, tmp_path: Path, monkeypatch):
    """The hub's cache layout, read offline."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(llama, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert open_base("someone/tiny").sha256 == open_base(str(llama)).sha256
    with pytest.raises(SubmodelError, match="not to be had from the hub"):
        open_base("someone/other")


def _edited(llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama, tmp_path / "copy"))


def test_pickled_weights_are_refused(llama: Path, tmp_path: Path):
    folder = _edited(llama, tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SubmodelError, match="pickled"):
        open_base(str(folder))


def test_quantised_weights_are_refused(llama: Path, tmp_path: Path):
    folder = _edited(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(SubmodelError, match="quantised"):
        open_base(str(folder))


def test_a_missing_and_a_misshapen_tensor_are_named(llama: Path, tmp_path: Path):
    folder = _edited(llama, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    lost = "model.layers.1.mlp.up_proj.weight"
    save_file({n: t for n, t in tensors.items() if n != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SubmodelError, match=lost):
        open_base(str(folder)).load()
    save_file({**tensors, lost: torch.zeros(3, 3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(SubmodelError, match=r"shape \(3, 3\)"):
        open_base(str(folder)).load()


def test_gguf(tmp_path: Path):
    """A GGUF file written here from a tiny LLaMA gives that LLaMA's logits."""
    file = tiny.save_gguf(tmp_path / "tiny.gguf")
    base = open_base(str(file))
    assert base.dtype == torch.float32
    ids = tiny.ids(2, 24)
    with torch.no_grad():
        torch.testing.assert_close(base.load()(ids).logits, tiny.build("llama")(ids).logits, atol=1e-4, rtol=1e-4)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:200])
    with pytest.raises(SubmodelError, match="not a whole GGUF"):
        open_base(str(cut))


def test_rows_of_a_tensor(llama: Path):
    source = open_base(str(llama)).source
    name = "model.embed_tokens.weight"
    assert torch.equal(source.get_rows(name, [0, 7, 258]), source.get(name)[[0, 7, 258]])


def test_other_weights_beside_the_shards_are_left_alone(tmp_path: Path):
    """As the copy for another library that some publishers put beside the shards of the index."""
    from safetensors.torch import save_file

    from submodel.export import export_directory

    folder = tiny.save("qwen2", tmp_path / "base", max_shard_size="20KB")
    save_file({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, folder / "consolidated.safetensors")
    base = open_base(str(folder))
    assert "layers.0.attention.wq.weight" not in base.source.names
    export_directory(base, {}, tmp_path / "out")
    copied = {file.name for file in (tmp_path / "out").glob("*.safetensors")}
    assert len(copied) > 1 and "consolidated.safetensors" not in copied
    whole = tiny.save("qwen2", tmp_path / "whole")
    save_file({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, whole / "consolidated.safetensors")
    assert open_base(str(whole)).sha256 == base.sha256


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_file_that_is_cut_short(name: str, tmp_path: Path):
    folder = tiny.save("qwen2", tmp_path / "base", max_shard_size="20KB")
    (folder / name).write_text((folder / name).read_text()[:40])
    with pytest.raises(SubmodelError, match="cannot be read"):
        open_base(str(folder))
    (folder / name).write_text('{"model_type": "qwen2", "hidden_size": "wide", "weight_map": {}}')
    with pytest.raises(SubmodelError, match="cannot be read|no weights"):
        open_base(str(folder))
