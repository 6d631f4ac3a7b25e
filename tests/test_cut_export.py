"""Exported with `--vocab cut`: the same logits at kept rows, ids mapped everywhere, what cannot be cut refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from submodel.api.stores import export
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.export.cut import cut_of
from submodel.export.cut_tokenizer import Ids, cut_config
from submodel.export.hf import export_directory
from submodel.extract.job import extract
from submodel.prune.vocabulary import Vocabulary
from submodel.prune.vocabulary.needed import configs_of, head_rows, needed
from submodel.runtime.load import masked_model
from submodel.store import Store
from tests import tiny, vocabularies
from tests.test_vocabulary_loss import ROWS, SETTINGS, model_of


def save(
    folder: Path, family: str = "llama", name: str = "qwen", rows: int = ROWS, dtype: Any = torch.bfloat16, **more: Any
) -> Path:
    model = model_of(family, rows, **more)
    model.generation_config.suppress_tokens = [20, 21]
    model.generation_config.pad_token_id = 22
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": "60KB"} if family == "qwen2" else {}))
    vocabularies.fast(name).save_pretrained(folder)
    return folder


def vocabulary_of(model: Path, share: float = 0.5) -> Vocabulary:
    """Every other token or so, with what is needed."""
    base = open_base(str(model))
    rows, cut = head_rows(base), cut_rules(model)
    always = needed(base.tokenizer, cut, configs_of(base), rows)
    chosen = {token for token in cut.tokens if np.random.default_rng(token).random() < share} | always
    kept = np.array(sorted(token for token in cut.with_parts(chosen) if token < rows))
    return Vocabulary.of(rows, kept, kept)


def cut_rules(model: Path) -> Any:
    from submodel.base.tokenizer_model import tokenizer_model

    return tokenizer_model(open_base(str(model)).tokenizer, "m")


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", SETTINGS)
def test_logits_at_kept_rows_are_the_bases(family: str, tied: bool, dtype: torch.dtype, tmp_path: Path):
    model = save(tmp_path / "m", family, dtype=dtype, tie_word_embeddings=tied)
    base = open_base(str(model))
    store = extract(base, [Samples("d", tiny.ids(2, 8))], tmp_path / "s", method="magnitude", routing=False).store
    masks = Store(store).masks("d")
    vocabulary = vocabulary_of(model)
    export_directory(base, masks, tmp_path / "cut", vocabulary=vocabulary)
    cut: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=dtype).eval()
    if family in tiny.MIXTURES:  # whose experts transformers would multiply together, which odd sizes do not allow
        cut = open_base(str(tmp_path / "cut")).load(dtype)
    assert cut.config.vocab_size == cut.get_output_embeddings().weight.shape[0] == len(cut_of(base, vocabulary).ids.new)
    expected, dense = masked_model(base, masks, dtype), cut_of(base, vocabulary)
    old = torch.tensor(sorted(dense.ids.new))[
        torch.randint(len(dense.ids.new), (2, 20), generator=torch.Generator().manual_seed(0))
    ]
    new = torch.tensor([[dense.ids.new[token] for token in row] for row in old.tolist()])
    ours, theirs = cut(new).logits, expected(old).logits[..., dense.kept]
    assert torch.equal(ours, theirs), float((ours - theirs).abs().max())
    weight: Any = cut.get_output_embeddings().weight
    head: Any = expected.get_output_embeddings()
    assert torch.equal(weight, head.weight[dense.kept])
    assert (weight.data_ptr() == cut.get_input_embeddings().weight.data_ptr()) == tied


@pytest.mark.parametrize("name", vocabularies.TOKENIZERS)
def test_a_directory_of_every_kind(name: str, tmp_path: Path):
    """As transformers reads it: the same text in and out, ids of configurations mapped, the template's turns alike."""
    model = save(tmp_path / "m", name=name)
    base: Any = open_base(str(model))
    vocabulary = vocabulary_of(model)
    export_directory(base, {}, tmp_path / "cut", vocabulary=vocabulary)
    ids = cut_of(base, vocabulary).ids.new
    before, after = base.tokenizer, AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert len(after) == len(ids) == vocabulary.count("cut") < len(before)
    for text in [*vocabularies.EDGES, *vocabularies.CODE.values(), *vocabularies.random_texts(1, 60)]:
        one, other = before(text)["input_ids"], after(text)["input_ids"]
        assert before.decode(one) == after.decode(other)
        if set(one) <= set(ids):
            assert other == [ids[token] for token in one]
    turns = [{"role": "user", "content": "def f():"}]
    rendered = [t.apply_chat_template(turns, add_generation_prompt=True, return_dict=True) for t in (before, after)]
    assert before.decode(rendered[0]["input_ids"]) == after.decode(rendered[1]["input_ids"])
    for special in ("bos_token_id", "eos_token_id", "pad_token_id"):
        old = getattr(before, special)
        assert getattr(after, special) == (None if old is None else ids[old])
    generation = json.loads((tmp_path / "cut/generation_config.json").read_text())
    assert generation["suppress_tokens"] == [ids[20], ids[21]] and generation["pad_token_id"] == ids[22]


def test_shards_keep_their_index(tmp_path: Path):
    model = save(tmp_path / "m", "qwen2")
    base = open_base(str(model))
    assert len(list(model.glob("*.safetensors"))) > 1
    export_directory(base, {}, tmp_path / "cut", vocabulary=vocabulary_of(model))
    index = json.loads((tmp_path / "cut/model.safetensors.index.json").read_text())
    sizes = 0
    for file in (tmp_path / "cut").glob("*.safetensors"):
        with safe_open(file, framework="pt") as shard:
            sizes += sum(shard.get_tensor(name).nbytes for name in shard.keys())
    assert index["metadata"]["total_size"] == sizes < sum(f.stat().st_size for f in model.glob("*.safetensors"))


def test_files_of_the_vocabulary_beside_tokenizer_json(tmp_path: Path):
    """Those that are text are cut alike; a SentencePiece model, which would still have every token, is left out."""
    model = save(tmp_path / "m")
    rules = cut_rules(model)
    document = rules.document["model"]
    (model / "vocab.json").write_text(json.dumps(document["vocab"]))
    (model / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(rule) for rule in document["merges"])]))
    (model / "tokenizer.model").write_bytes(b"not read")
    (model / "added_tokens.json").write_text("{}")
    vocabulary = vocabulary_of(model)
    export_directory(open_base(str(model)), {}, tmp_path / "cut", vocabulary=vocabulary)
    cut = json.loads((tmp_path / "cut/tokenizer.json").read_text())["model"]
    assert json.loads((tmp_path / "cut/vocab.json").read_text()) == cut["vocab"]
    assert (tmp_path / "cut/merges.txt").read_text().splitlines()[1:] == [" ".join(rule) for rule in cut["merges"]]
    assert not (tmp_path / "cut/tokenizer.model").exists() and not (tmp_path / "cut/added_tokens.json").exists()


def test_more_tokens_than_rows(tmp_path: Path):
    """Tokens without a row stay without one, behind those that have."""
    count = len(vocabularies.fast("qwen"))
    model = save(tmp_path / "m", rows=count - 2)
    vocabulary = vocabulary_of(model)
    base = open_base(str(model))
    export_directory(base, {}, tmp_path / "cut", vocabulary=vocabulary)
    after = AutoTokenizer.from_pretrained(tmp_path / "cut")
    rows = AutoModelForCausalLM.from_pretrained(tmp_path / "cut").config.vocab_size
    assert rows == vocabulary.count("cut") == len(after) - 2
    assert after("<tool_call>")["input_ids"] == [len(after) - 1]


def test_through_the_store_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = save(tmp_path / "m")
    base = open_base(str(model))
    extract(base, [Samples("d", tiny.ids(2, 8))], tmp_path / "s", method="magnitude", routing=False)
    store = Store(tmp_path / "s")
    recipe = {k: v for k, v in store.manifest("d").items() if k not in ("masks", "matrices", "format", "name")}
    store.add("v", store.masks("d"), recipe, vocabulary_of(model))
    assert main(["export", f"{tmp_path}/s@v", "--vocab", "cut", "--out", str(tmp_path / "cut")]) == 0
    assert "cut to its tokens" in capsys.readouterr().out
    reference = str(tmp_path / "cut")
    assert main(["generate", reference, "--prompt", "def f(", "--max-tokens", "3"]) == 0
    assert main(["verify", f"{tmp_path}/s"]) == 0 and "vocabulary" in capsys.readouterr().out
    for model_name, given, words in (
        ("d", ["--vocab", "cut"], "--vocab domain"),
        ("v", ["--vocab", "cat"], "did you mean 'cut'"),
        ("v", ["--vocab", "cut", "--format", "packed-int8"], "--format hf"),
    ):
        out = tmp_path / "refused"
        assert main(["export", f"{tmp_path}/s@{model_name}", *given, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1] and not out.exists()
    with pytest.raises(SubmodelError, match="exists"):
        export(f"{tmp_path}/s@v", reference, vocab="cut")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"eos_token_id": 1799}, "eos_token_id is 1799"),
        ({"sequence_bias": [[[5], -1.0]]}, "sequence_bias"),
        ({"a": {"pad_token_id": 9}}, "pad_token_id is 9"),
    ],
)
def test_ids_that_cannot_be_mapped_are_refused(config: dict[str, Any], words: str):
    with pytest.raises(SubmodelError, match=words) as refusal:
        cut_config(config, Ids({5: 0}, 1, 1800, "m"))
    assert "\n" not in str(refusal.value)


def test_ids_in_every_shape_are_mapped():
    config = {
        "vocab_size": 100,
        "hidden_size": 5,
        "eos_token_id": [5, 95, 7],
        "decoder_start_token_id": 90,
        "pad_token_id": None,
        "bos_token_id": -1,
        "bad_words_ids": [[5], [7, 5]],
        "forced_decoder_ids": None,
        "added_tokens_decoder": {"7": {"content": "x"}},
        "id2label": {"0": "a"},
        "text_config": {"vocab_size": 100, "image_token_index": 7, "begin_suppress_tokens": [5]},
    }
    assert cut_config(config, Ids({5: 0, 7: 1}, 2, 90, "m")) == {
        "vocab_size": 2,
        "hidden_size": 5,
        "eos_token_id": [0, 1],
        "decoder_start_token_id": None,
        "pad_token_id": None,
        "bos_token_id": -1,
        "bad_words_ids": [[0], [1, 0]],
        "forced_decoder_ids": None,
        "added_tokens_decoder": {"1": {"content": "x"}},
        "id2label": {"0": "a"},
        "text_config": {"vocab_size": 2, "image_token_index": 1, "begin_suppress_tokens": [0]},
    }


def test_a_vocabulary_of_another_head_is_refused(tmp_path: Path):
    model = save(tmp_path / "m")
    ones = np.arange(50)
    with pytest.raises(SubmodelError, match="1,800 rows"):
        export_directory(open_base(str(model)), {}, tmp_path / "cut", vocabulary=Vocabulary.of(99, ones, ones))
    assert not (tmp_path / "cut").exists()
