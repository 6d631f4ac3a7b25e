"""GGUF files as they lie on disks: split, cut, of other kinds, with keys, tensors and types that are not understood."""

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM

from submodel.base.gguf.source import Gguf
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.runtime.load import load
from tests import gguf_files, tiny
from tests.test_gguf_models import CASES, build

_WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def model() -> Any:
    return build("llama", num_hidden_layers=2)


@pytest.fixture
def file(model: Any, tmp_path: Path) -> Path:
    return gguf_files.write(tmp_path / "whole.gguf", model)


def split(model: Any, folder: Path, tensors: int = 6, **options: Any) -> list[Path]:
    """The model in parts, as gguf-split cuts it."""
    gguf_files.write(folder / "m.gguf", model, split_max_tensors=tensors, **options)
    return sorted(folder.glob("m-*.gguf"))


def _logits(path: Path) -> torch.Tensor:
    with torch.no_grad():
        return open_base(str(path)).load(torch.float32)(tiny.ids(1, 12) % 96).logits


def test_all_parts_of_a_split_file(model: Any, file: Path, tmp_path: Path):
    parts = split(model, tmp_path)
    assert len(parts) > 2
    expected = _logits(file)
    for given in (parts[0], parts[-1], tmp_path / parts[1].name):
        assert torch.equal(_logits(given), expected)
        assert open_base(str(given)).sha256 == open_base(str(file)).sha256
    assert open_base(str(parts[1])).path == parts[0]


@pytest.mark.parametrize("small_first", [True, False])
def test_parts_that_begin_without_tensors(small_first: bool, model: Any, file: Path, tmp_path: Path):
    parts = split(model, tmp_path, small_first_shard=small_first)
    assert torch.equal(_logits(parts[0]), _logits(file))


def test_a_part_that_is_missing_renamed_or_of_another_model(model: Any, tmp_path: Path):
    parts = split(model, tmp_path)
    moved = parts[1].rename(tmp_path / "elsewhere")
    with pytest.raises(SubmodelError, match=rf"one of {len(parts)} parts, and {parts[1].name} is not beside it"):
        open_base(str(parts[0]))
    shutil.copy(parts[2], parts[1])
    with pytest.raises(SubmodelError, match="not part 2 of"):
        open_base(str(parts[0]))
    alone = Path(shutil.copy(moved, tmp_path / "renamed.gguf"))
    with pytest.raises(SubmodelError, match=rf"part 2 of {len(parts)} of a split model: give its parts the names"):
        open_base(str(alone))


def test_a_directory_with_one_gguf_and_no_config(model: Any, file: Path, tmp_path: Path, capsys: Any):
    folder = tmp_path / "folder"
    folder.mkdir()
    moved = shutil.copy(file, folder / "model.gguf")
    (folder / "mmproj-model.gguf").write_bytes(b"GGUF")
    base = open_base(str(folder))
    assert base.path == Path(moved) and base.sha256 == open_base(str(file)).sha256
    extract(base, [Samples("d", tiny.ids(2, 16) % 96)], tmp_path / "s", method="wanda", dtype=torch.float32)
    assert main(["info", str(tmp_path / "s") + "@d"]) == 0
    (folder / "config.json").write_text("{}")  # of a hub repository that has GGUF files only
    assert open_base(str(folder)).path == Path(moved)
    shutil.copy(file, folder / "other.gguf")
    with pytest.raises(SubmodelError, match=r"holds 2 .gguf models \(model.gguf, other.gguf\): name the one to take"):
        open_base(str(folder))
    assert main(["generate", str(folder), "--prompt", "a"]) == 2


def test_a_directory_with_the_parts_of_one(model: Any, file: Path, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    split(model, folder)
    assert torch.equal(_logits(folder), _logits(file))


def test_parts_under_the_home_of_bases(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bases" / "m").mkdir(parents=True)
    parts = split(model, tmp_path)
    extract(open_base(str(parts[0])), [Samples("d", tiny.ids(2, 16) % 96)], tmp_path / "s", method="wanda")
    for part in parts:
        part.rename(tmp_path / "bases" / "m" / part.name)
    monkeypatch.setenv("SUBMODEL_HOME", str(tmp_path / "bases"))
    assert load(f"{tmp_path / 's'}@d").base.path == tmp_path / "bases" / "m" / parts[0].name


def _with_kind(file: Path, name: str, number: int, out: Path) -> Path:
    """The file with another number for the type of one tensor."""
    content = bytearray(file.read_bytes())
    text = name.encode()
    at = content.index(struct.pack("<Q", len(text)) + text) + 8 + len(text)
    (dimensions,) = struct.unpack_from("<I", content, at)
    struct.pack_into("<I", content, at + 4 + 8 * dimensions, number)
    out.write_bytes(content)
    return out


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (97, "blk.0.ffn_up.weight has the type 97, which the gguf package .* does not know: upgrade"),
        (15, "has the type Q8_K, which cannot be read: give the model in another type, such as F16"),
        (24, "has the type I8, which cannot be read"),
        (26, "has the type I32, which cannot be read"),
        (36, "has the type 36"),  # IQ4_NL_4_4, which llama.cpp has removed
    ],
)
def test_a_type_that_is_not_known_is_named(number: int, why: str, file: Path, tmp_path: Path):
    with pytest.raises(SubmodelError, match=why):
        open_base(str(_with_kind(file, "blk.0.ffn_up.weight", number, tmp_path / "x.gguf")))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"<!doctype html><title>404</title>", "not a whole GGUF file .it begins with"),
        (b"", "not a whole GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1: versions 2 and 3 are read"),
        (b"GGUF" + struct.pack(">I", 3), "a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "not a whole GGUF file"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 61) + b"x" * 64, "not a whole GGUF file"),
    ],
)
def test_what_is_no_gguf(content: bytes, why: str, tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(SubmodelError, match=why):
        open_base(str(tmp_path / "x.gguf"))


def test_every_cut_is_refused(file: Path, tmp_path: Path):
    content = file.read_bytes()
    for size in (10, 40, 300, len(content) // 3, len(content) - 64):
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        with pytest.raises(SubmodelError, match=r"not a whole GGUF file .*: fetch it again"):
            open_base(str(tmp_path / "cut.gguf"))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"attention.new_rule": 3}, "llama.attention.new_rule is 3: a key that is not understood"),
        ({"rope.scaling.type": "ntk"}, "llama.rope.scaling.type is ntk: one of none, linear, yarn, longrope"),
        ({"rope.scaling.type": "longrope"}, "no tensor rope_factors_short.weight"),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
        ({"rope.scaling.alpha": 2.0}, "rope.scaling.alpha"),
        ({"rope.dimension_sections": [4, 4, 0, 0]}, "rope.dimension_sections"),
        ({"attention.scale": 0.3}, "attention.scale"),
        ({"attention.causal": False}, "attention.causal"),
        ({"attention.value_length": 4}, "attention.value_length is 4: values as wide as keys"),
        ({"attention.head_count_kv": [2, 1]}, "differs from block to block"),
        ({"logit_scale": 0.5}, "logit_scale"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"embedding_scale": 3.0}, "embedding_scale"),
        ({"nextn_predict_layers": 1}, "nextn_predict_layers"),
        ({"rope.dimension_count": 6}, None),
        ({"general.type": "mmproj"}, "general.type is mmproj: give the GGUF file of the model itself"),
        ({"general.type": "adapter"}, "general.type is adapter"),
    ],
)
def test_a_key_that_matters_is_obeyed_or_named(keys: dict[str, Any], why: str | None, model: Any, tmp_path: Path):
    file = gguf_files.write(tmp_path / "x.gguf", model, extra=keys)
    if why is None:
        assert open_base(str(file)).config.rope_parameters["partial_rotary_factor"] == 0.75
        return
    with pytest.raises(SubmodelError, match=why):
        open_base(str(file))


@pytest.mark.parametrize(
    "keys",
    [
        {"general.name": "x", "general.tags": ["a"], "general.quantization_version": 2, "quantize.imatrix.file": "f"},
        {"tensor_data_layout": "Meta AI original pth", "attention.causal": True, "expert_count": 0},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
        {"rope.scaling.finetuned": True, "pooling_type": 0, "nextn_predict_layers": 0},
        {"attention.head_count_kv": [2, 2], "feed_forward_length": [48, 48]},
    ],
)
def test_a_key_that_changes_nothing_is_read(keys: dict[str, Any], model: Any, file: Path, tmp_path: Path):
    assert torch.equal(_logits(gguf_files.write(tmp_path / "x.gguf", model, extra=keys)), _logits(file))


def test_an_old_key_of_linear_scaling_is_obeyed(model: Any, tmp_path: Path):
    base = open_base(str(gguf_files.write(tmp_path / "x.gguf", model, extra={"rope.scale_linear": 4.0})))
    assert base.config.rope_parameters["rope_type"] == "linear" and base.config.rope_parameters["factor"] == 4


def _added(source: Path, out: Path, architecture: str, tensors: dict[str, torch.Tensor]) -> Path:
    """The file with more tensors, for an architecture of another name if that is given."""
    reader = GGUFReader(source)
    writer = GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name.replace("llama.", f"{architecture}."), field.contents(), field.types[0])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for name, values in tensors.items():
        writer.add_tensor(name, values.numpy(), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    "name",
    [
        "blk.0.attn_sinks.weight",
        "blk.2.attn_q.weight",
        "cls.output.weight",
        "blk.0.ffn_up.scale",
        "position_embd.weight",
    ],
)
def test_a_tensor_without_a_place_is_named(name: str, file: Path, tmp_path: Path):
    with pytest.raises(SubmodelError, match=f"the tensor {name} has no place in the family llama"):
        open_base(str(_added(file, tmp_path / "x.gguf", "llama", {name: torch.zeros(32)})))


def test_frequencies_that_no_rule_makes_are_obeyed(model: Any, tmp_path: Path, file: Path):
    factors = torch.tensor([1.0, 3.0, 2.0, 7.0])
    base = open_base(str(_added(file, tmp_path / "x.gguf", "llama", {"rope_freqs.weight": factors})))
    rope: Any = base.load().model.rotary_emb  # type: ignore[union-attr]
    expected = 10000.0 ** (-torch.arange(0, 8, 2) / 8) / factors
    torch.testing.assert_close(rope.inv_freq, expected)
    assert rope.attention_scaling == 1
    with pytest.raises(SubmodelError, match="rope_freqs.weight has 5 numbers, not 4"):
        open_base(str(_added(file, tmp_path / "y.gguf", "llama", {"rope_freqs.weight": torch.ones(5)})))


def test_a_family_that_is_not_read_is_named(file: Path, tmp_path: Path):
    with pytest.raises(SubmodelError, match="unknown family in GGUF 'mamba'.*: allowed are arcee, .*safetensors"):
        open_base(str(_added(file, tmp_path / "x.gguf", "mamba", {})))


def test_a_lost_tensor_is_named(file: Path, tmp_path: Path):
    content = file.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_gate_exps"[:19])
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(SubmodelError, match=r"blk.1.ffn_gate_exps has no place"):
        open_base(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16)],
)
@torch.no_grad()
def test_types_of_matrices(kind: str, dtype: torch.dtype, tmp_path: Path):
    """The dtype is the file's; a quantised file gives bfloat16."""
    wide = build("llama", **_WIDE)
    base = open_base(str(gguf_files.write(tmp_path / "x.gguf", wide, kind=kind)))
    assert base.dtype == dtype
    expected = wide(tiny.ids(1, 12) % 96).logits
    difference = (base.load(torch.float32)(tiny.ids(1, 12) % 96).logits - expected).abs().max() / expected.abs().max()
    assert difference < {"F32": 1e-5, "F16": 5e-3}.get(kind, 5e-2)


def test_rows_of_a_quantised_embedding(tmp_path: Path):
    base = open_base(str(gguf_files.write(tmp_path / "x.gguf", build("llama", **_WIDE), kind="Q8_0")))
    name = "model.embed_tokens.weight"
    assert torch.equal(base.source.get_rows(name, [0, 7, 95]), base.source.get(name)[[0, 7, 95]])
    assert isinstance(base.source, Gguf) and name in base.source.names


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gemma2", "stablelm", "gpt_neox"])
@torch.no_grad()
def test_an_export_of_a_gguf_base(family: str, tmp_path: Path):
    """transformers opens it, with the same logits."""
    base = open_base(str(gguf_files.write(tmp_path / "x.gguf", build(family, **CASES[family][-1]), _tokens())))
    export_directory(base, {}, tmp_path / "out")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = tiny.ids(1, 20) % 96
    torch.testing.assert_close(exported(ids).logits, base.load()(ids).logits, atol=2e-5, rtol=1e-4)


def _tokens() -> dict[str, Any]:
    letters = [chr(33 + i) for i in range(90)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*letters, "ab", *(f"[PAD{i}]" for i in range(5))],
        "tokenizer.ggml.token_type": [*[1] * 91, *[5] * 5],
        "tokenizer.ggml.merges": ["a b"],
    }
