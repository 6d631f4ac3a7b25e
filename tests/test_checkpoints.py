"""What a checkpoint's files say is obeyed as transformers does, or refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.export import export_directory
from submodel.extract.job import extract
from submodel.runtime import Request, generate_batch, load
from submodel.runtime.model_thread import ModelThread
from submodel.store import Store
from tests import families, tiny


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(tiny.ids(2, 24)).logits


def _line(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert main(list(command)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    return lines[-1]


# tied or untied as the file has it


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gemma", "qwen2", "gpt_neox", "opt"])
@pytest.mark.parametrize("stored", ["both", "equal", "head", "embedding"])
def test_tied_as_the_file_has_it(family: str, stored: str, tmp_path: Path):
    tiny.save(family, tmp_path / "m", tie_word_embeddings=True)
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    base = open_base(str(tmp_path / "m"))
    head, embedding = base._tied_pair(base.skeleton(torch.float32)) or ("", "")
    if not head:  # the checkpoint has both, and they differ
        head, embedding = next((n, "") for n in base.source.names if "head" in n or "embed_out" in n)
        assert stored and torch.equal(_logits(base.load()), _logits(AutoModelForCausalLM.from_pretrained(base.path)))
        return
    tensors = load_file(tmp_path / "m/model.safetensors")
    weight = tensors.pop(embedding)
    tensors.pop(head, None)
    if stored != "embedding":
        tensors[head] = weight.flip(0).contiguous() if stored == "both" else weight.clone()
    if stored != "head":
        tensors[embedding] = weight
    save_file(tensors, tmp_path / "m/model.safetensors", {"format": "pt"})
    base = open_base(str(tmp_path / "m"))
    expected = _logits(AutoModelForCausalLM.from_pretrained(tmp_path / "m"))
    assert torch.equal(_logits(base.load()), expected)
    extract(base, [Samples("d", tiny.ids(2, 24))], tmp_path / "s", method="wanda", dtype=torch.float32)
    export_directory(base, Store(tmp_path / "s").masks("d"), tmp_path / "out")
    exported = _logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert torch.allclose(_logits(load(f"{tmp_path / 's'}@d").model), exported, atol=1e-5)
    packed = _logits(load(f"{tmp_path / 's'}@d", weight_format="bf16").model)
    assert (packed - exported).norm() < 0.05 * exported.norm()


# what a family keeps in float32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["deepseek_v3", "ernie4_5_moe", "nemotron_h", "gpt_oss", "beam"])
def test_what_stays_in_float32(family: str, dtype: torch.dtype, tmp_path: Path):
    families.save(family, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    ours = open_base(str(tmp_path)).load(dtype)
    expected = {name: tensor.dtype for name, tensor in reference.state_dict().items()}
    assert {name: tensor.dtype for name, tensor in ours.state_dict().items()} == expected
    kept = [tensor for name, tensor in ours.state_dict().items() if expected[name] == torch.float32]
    assert kept or dtype == torch.bfloat16  # some names are kept beside float16 alone
    assert all(torch.equal(tensor, reference.state_dict()[name]) for name, tensor in ours.state_dict().items())


# generation_config.json


def _with_settings(folder: Path, **settings: Any) -> Path:
    tiny.save("llama", folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 258, **settings}))
    return folder


def _served(reference: str, prompt: tuple[int, ...], count: int, weight_format: str | None) -> tuple[int, ...]:
    import threading

    tokens: list[int] = []
    done = threading.Event()
    thread = ModelThread(load(reference, weight_format=weight_format))

    def emit(piece: Any) -> None:
        tokens.extend(piece.tokens)
        if piece.finish:
            done.set()

    try:
        thread.submit(Request("", prompt, count), emit)
        assert done.wait(60)
    finally:
        thread.close()
    return tuple(tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[23], [7, 9]]},
        {"suppress_tokens": list(range(0, 200, 2))},
        {"begin_suppress_tokens": list(range(100))},
        {"min_new_tokens": 12},
        {"sequence_bias": [[[3], 9.0]]},
        {"repetition_penalty": 1.3, "top_k": 3, "top_p": 0.5, "temperature": 0.3, "do_sample": True},
    ],
)
def test_penalties_hold_wherever_a_token_is_chosen(settings: dict[str, Any], tmp_path: Path):
    path = _with_settings(tmp_path, **settings)
    prompt = tuple(tiny.ids(1, 20)[0].tolist())
    model: Any = AutoModelForCausalLM.from_pretrained(path)
    greedy = GenerationConfig(**{k: v for k, v in settings.items() if k not in ("top_k", "top_p", "temperature")})
    greedy.do_sample, greedy.eos_token_id, greedy.pad_token_id, greedy.max_new_tokens = False, 258, 258, 12
    ids = torch.tensor([prompt])
    model.generation_config = GenerationConfig()
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)[0, 20:]
    plain = GenerationConfig(do_sample=False, eos_token_id=258, pad_token_id=258, max_new_tokens=12)
    without = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain)[0, 20:]
    [batch] = generate_batch(load(str(path)), [Request("", prompt, 12)])
    assert batch.tokens == tuple(expected.tolist())
    if "min_new_tokens" not in settings:
        assert batch.tokens != tuple(without.tolist())  # it does something here
    assert _served(str(path), prompt, 12, None) == batch.tokens
    for form in ("bf16", "int8"):
        [packed] = generate_batch(load(str(path), weight_format=form), [Request("", prompt, 12)])
        assert _served(str(path), prompt, 12, form) == packed.tokens
        if "repetition_penalty" in settings:
            assert len(set(packed.tokens)) >= len(set(without.tolist()))


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"epsilon_cutoff": 0.9}])
def test_cuts_hold_for_samples(cut: dict[str, Any], tmp_path: Path):
    """Cuts that leave the best token alone make a sample greedy."""
    path = _with_settings(tmp_path, **cut)
    prompt = tuple(tiny.ids(1, 20)[0].tolist())
    loaded = load(str(path))
    [best] = generate_batch(loaded, [Request("", prompt, 8)])
    [drawn] = generate_batch(loaded, [Request("", prompt, 8, temperature=5.0)])
    assert drawn.tokens == best.tokens


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"num_beams": 4}, "num_beams"),
        ({"penalty_alpha": 0.6}, "penalty_alpha"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"forced_bos_token_id": 3}, "forced_bos_token_id"),
        ({"repetition_penalty": -1.0}, "cannot be"),
        ({"repetition_penalty": "much"}, "cannot be"),
    ],
)
def test_what_is_not_done_is_refused(settings: dict[str, Any], word: str, tmp_path: Path, capsys):
    path = _with_settings(tmp_path, **settings)
    line = _line(capsys, "generate", str(path), "--prompt", "ab", "--max-tokens", "4")
    assert word in line and "generation_config.json" in line
    with pytest.raises(SubmodelError, match=word):
        ModelThread(load(str(path)))


@pytest.mark.parametrize("text", ['{"eos_token_id": 2', "", "[1, 2]", "\x00\x01"])
def test_settings_that_cannot_be_read(text: str, tmp_path: Path, capsys):
    path = _with_settings(tmp_path)
    (path / "generation_config.json").write_text(text)
    assert "generation_config.json cannot be read" in _line(capsys, "generate", str(path), "--prompt", "ab")
    (tmp_path / "text.txt").write_text("some words " * 500)
    out = str(tmp_path / "s")
    command = ["extract", str(path), "--domain", f"d={tmp_path / 'text.txt'}", "--out", out, "--method", "wanda"]
    assert "cannot be read" in _line(capsys, *command)
    assert not Path(out).exists()


# tokenizers


@pytest.mark.parametrize("kind", ["pre_tokenizer", "normalizer", "decoder", "model"])
def test_a_tokenizer_of_an_unknown_type(kind: str, tmp_path: Path, capsys):
    path = tiny.save("llama", tmp_path / "m")
    document = json.loads((path / "tokenizer.json").read_text())
    document[kind] = {"type": "Nonsense"}
    (path / "tokenizer.json").write_text(json.dumps(document))
    assert "no tokenizer can be loaded" in _line(capsys, "generate", str(path), "--prompt", "ab")


def test_tokens_beyond_the_embedding(tmp_path: Path, capsys):
    path = tiny.save("llama", tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<tool>", "<end_tool>"])
    tokenizer.save_pretrained(path)
    plain, with_tokens = tmp_path / "plain.txt", tmp_path / "tools.txt"
    plain.write_text("some words to read " * 400)
    with_tokens.write_text("some <tool> words <end_tool> to read " * 400)
    out, rows = str(tmp_path / "s"), str(tmp_path / "rows.jsonl")
    assert main(["generate", str(path), "--prompt", "words", "--max-tokens", "4"]) == 0  # no text has them
    extraction = ["extract", str(path), "--out", out, "--method", "wanda", "--tokens", "512", "--seq-len", "64"]
    refused = [
        ["generate", str(path), "--prompt", "a <tool> b", "--max-tokens", "4"],
        [*extraction, "--domain", f"d={with_tokens}"],
        ["eval", str(path), "--task", f"perplexity:{with_tokens}", "--out", rows, "--tokens", "256", "--seq-len", "64"],
    ]
    for command in refused:
        line = _line(capsys, *command)
        assert "'<tool>'" in line and "259 rows" in line
    assert not Path(out).exists()
    assert main([*extraction, "--domain", f"d={plain}"]) == 0


# small models


@pytest.mark.parametrize(
    "family, settings",
    [
        ("llama", {"num_hidden_layers": 1}),
        ("gpt_neox", {"num_hidden_layers": 1}),
        ("opt", {"max_position_embeddings": 128}),
        ("gpt2", {"n_positions": 128}),
        ("gpt_neo", {"max_position_embeddings": 128}),
        ("gpt_bigcode", {"n_positions": 128}),
        ("xglm", {"max_position_embeddings": 128}),
    ],
)
def test_small_models_work_in_all_commands(family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(families.DIFFERENCES, family, {**families.DIFFERENCES.get(family, {}), **settings})
    path = tmp_path / "m"
    if family in tiny.FAMILIES:
        monkeypatch.setitem(tiny.FAMILIES, family, {**tiny.FAMILIES[family], **settings})
        tiny.save(family, path)
    else:
        families.save(family, path)
    text, out = tmp_path / "text.txt", tmp_path / "s"
    text.write_text("some words to read, and some others " * 300)
    command = ["extract", str(path), "--domain", f"d={text}", "--out", str(out), "--tokens", "1024"]
    assert main(command) == 0, capsys.readouterr().err
    for form in ([], ["--format", "int8"]):
        assert main(["generate", f"{out}@d", "--prompt", "some", "--max-tokens", "4", *form]) == 0
    other, rows = tmp_path / "other.txt", str(tmp_path / "rows.jsonl")
    other.write_text("no word of this was read before, or so one hopes; " * 60)
    sizes = ["--tokens", "512", "--seq-len", "64"]
    assert main(["eval", f"{out}@d", "--task", f"perplexity:{other}", "--out", rows, *sizes]) == 0
    assert main(["route", str(out), "some words to read"]) == 0


def test_old_masks_of_a_router_still_run_packed(tmp_path: Path):
    """Earlier versions pruned routers that are linears."""
    import numpy as np

    from submodel.prune.mask import pack_bits
    from submodel.store import Mask

    families.save("phimoe", tmp_path / "m")
    base = open_base(str(tmp_path / "m"))
    name = next(name for name, _ in base.load().named_parameters() if "router" in name)
    keep = np.random.default_rng(0).random(base.load().get_parameter(name).shape) < 0.5
    from submodel.runtime.packed.model import load_packed

    masked: Any = load_packed(base, {name: Mask(pack_bits(keep), keep.shape[1])}, "bf16")
    dense: Any = load_packed(base, {}, "bf16")
    assert torch.equal(masked.get_parameter(name) != 0, torch.from_numpy(keep) & (dense.get_parameter(name) != 0))
    shutil.rmtree(tmp_path / "m")
