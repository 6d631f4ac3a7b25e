"""Families of every kind through all parts; all of them with SUBMODEL_TEST_FAMILIES=1, some minutes of one core."""

import os
from pathlib import Path

import pytest
import torch

from submodel.base.matrices import all_matrices
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract.job import extract
from submodel.runtime.cache import KeyValueCache, cache_for
from submodel.runtime.states import StateCache
from tests import families, families_page, tiny
from tests.family_walk import walk_family

PAGE = Path(__file__).parent.parent / "docs/reference/families.md"

# one of each kind: weights with rows and columns changed, state spaces, convolutions, latent attention, routers that
# are linears, experts under names of their own, layers that share keys and values, and a refusal of each kind
SHOWN = (
    "gpt2", "opt", "mamba", "lfm2", "deepseek_v2", "phimoe", "qwen3_5_moe_text", "gemma4_text", "recurrent_gemma",
    "bart", "gpt_oss", "hy_v4", "zamba",
)  # fmt: skip
WALKED = families.FAMILIES if os.environ.get("SUBMODEL_TEST_FAMILIES") else SHOWN


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", WALKED)
def test_a_family_does_what_the_page_says(family: str, tmp_path: Path):
    row = walk_family(family, tmp_path / "walked")
    assert row.kind != "failed", row
    assert families_page.line(row) in PAGE.read_text().splitlines()


def test_the_page_has_every_family_and_no_failure():
    text = PAGE.read_text()
    named = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert sorted(set(named) - {"family"}) == sorted(families.FAMILIES)
    assert "## Fail" not in text


@pytest.mark.parametrize(
    "family, router",
    [
        ("phimoe", "router"),
        ("jetmoe", "router"),
        ("qwen2_moe", "shared_expert_gate"),
        ("longcat_flash", "router.classifier"),
        ("hunyuan_v1_moe", "gate.wg"),
        ("dbrx", "router"),
        ("afmoe", "router.gate"),
        ("zaya", "router"),
        ("mixtral", "mlp.gate."),
    ],
)
def test_routers_are_never_pruned(family: str, router: str, tmp_path: Path):
    families.save(family, tmp_path)
    model = open_base(str(tmp_path)).skeleton(torch.float32)
    names = [matrix.name for matrix in all_matrices(model)]
    assert any(router in name for name, _ in model.named_parameters())
    assert names and not [name for name in names if router in name]


@pytest.mark.parametrize(
    "family, kind",
    [
        ("llama", KeyValueCache),
        ("gemma2", KeyValueCache),
        ("opt", KeyValueCache),
        ("minimax", StateCache),
        ("rwkv", StateCache),
        ("jamba", StateCache),
        ("roberta", StateCache),
        ("openai-gpt", StateCache),
    ],
)
def test_what_a_family_keeps(family: str, kind: type, tmp_path: Path):
    families.save(family, tmp_path)
    assert isinstance(cache_for(open_base(str(tmp_path)).skeleton(torch.float32), 1, 8), kind)


@pytest.mark.parametrize("family", ["gpt_oss", "llama4_text", "hy_v4", "gemma3n_text", "zamba"])
def test_a_family_that_cannot_be_walked_leaves_nothing_behind(family: str, tmp_path: Path):
    families.save(family, tmp_path / "model")
    base = open_base(str(tmp_path / "model"))
    with pytest.raises(SubmodelError, match=r"^[^\n]*cannot be (pruned|walked)[^\n]*$"):
        extract(base, [Samples("d", tiny.ids(2, 16))], tmp_path / "store", method="wanda", dtype=torch.float32)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "xlm", "xlnet", "big_bird", "bert-generation"])
def test_an_encoder_is_refused(family: str, tmp_path: Path):
    families.CONFIG_MAPPING[family]().save_pretrained(tmp_path)
    families.save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SubmodelError, match="is an encoder by its config.json"):
        open_base(str(tmp_path))
