"""How much text is enough: the estimate against a much larger run, and from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers.modeling_utils import PreTrainedModel

from submodel import cli
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract import enough_text as enough_text_module
from submodel.extract.enough_text import _EVERY, _HANDED_ON, distance_to_limit, enough_text
from submodel.store import Store
from tests import tiny


def test_half_of_the_differing_weights():
    """Of masks of k = 100 that differ in 20, 10 are expected to differ from the limit's."""
    assert distance_to_limit(40 / 120) == pytest.approx(20 / 110)
    assert distance_to_limit(0) == 0 and distance_to_limit(1e-3) == pytest.approx(5e-4, rel=1e-3)


def dense_norms(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Matrix -> sum of its inputs' squares (cols,), by hooks on the whole model in float64."""
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n}
    sums = {name: torch.zeros(module.in_features, dtype=torch.float64) for name, module in linears.items()}

    def adds(name: str) -> Callable[..., None]:
        return lambda _, args: sums.update({name: sums[name] + args[0].double().square().sum((0, 1))})

    hooks = [module.register_forward_pre_hook(adds(name)) for name, module in linears.items()]
    with torch.no_grad():
        for batch in ids.split(256):
            model(input_ids=batch)
    for hook in hooks:
        hook.remove()
    return sums


def masks(model: PreTrainedModel, norms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Wanda at half of every row, by a plain sort."""
    found = {}
    for name, of_inputs in norms.items():
        scores = model.get_parameter(f"{name}.weight").detach().double().abs() * of_inputs.sqrt()
        order = scores.argsort(dim=1, stable=True)
        found[name] = torch.ones_like(scores, dtype=torch.bool).scatter(1, order[:, : scores.shape[1] // 2], False)
    return found


def jaccard(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], every: int = 1) -> float:
    both = sum(int((a[name] & b[name])[::every].sum()) for name in a)
    either = sum(int((a[name] | b[name])[::every].sum()) for name in a)
    return 1 - both / either


def test_the_estimate_against_plain_halves_and_a_much_larger_run(llama: Path):
    ids = tiny.ids(2048 + 64, 24)
    base = open_base(str(llama))
    model = tiny.build("llama").eval()
    few = Samples("d", ids[:64])
    curve = enough_text(base, [few], tolerance=1e-6, dtype=torch.float32)["d"]
    assert curve.samples == (2, 4, 8, 16, 32, 64) and curve.tokens[-1] == 64 * 24 and not curve.is_settled
    for count, distance in zip(curve.samples, curve.distances, strict=True):
        a, b = (masks(model, dense_norms(model, ids[half:count:2])) for half in (0, 1))
        assert distance == pytest.approx(_HANDED_ON * distance_to_limit(jaccard(a, b, _EVERY)), abs=5e-3)
    limit = masks(model, dense_norms(model, ids[64:]))
    for count, distance in list(zip(curve.samples, curve.distances, strict=True))[2:]:
        true = jaccard(masks(model, dense_norms(model, ids[:count])), limit)
        assert 0.6 * true < distance / _HANDED_ON < 1.6 * true, (count, true, distance)
    assert curve.distances[-1] < curve.distances[0] / 3


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_it_stops_where_it_has_settled(family: str, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / family)))
    domains = [Samples("d", tiny.ids(33, 24)), Samples("e", tiny.ids(33, 24, seed=1), lengths=(12, 24, 18) * 11)]
    whole = enough_text(base, domains, tolerance=1e-6, dtype=torch.float32)
    assert all(curve.samples == (2, 4, 8, 16, 32) for curve in whole.values())
    assert whole["d"].tokens == tuple(24 * n for n in (2, 4, 8, 16, 32))
    assert whole["e"].tokens[:2] == (36, 66)
    tolerance = max(curve.distances[2] for curve in whole.values())
    early = enough_text(base, domains, tolerance=tolerance, dtype=torch.float32)
    for name, curve in early.items():
        assert curve.is_settled and curve.distances == whole[name].distances[: len(curve.distances)]
    assert max(len(curve.samples) for curve in early.values()) <= 3


def test_bad_wishes(llama: Path):
    base = open_base(str(llama))
    domain = Samples("d", tiny.ids(4, 24))
    for method, said in (("wander", "did you mean"), ("swaps", "wanda, ria"), ("magnitude", "wanda, ria")):
        with pytest.raises(SubmodelError, match=said):
            enough_text(base, [domain], method=method)
    with pytest.raises(SubmodelError, match="between 0 and 1"):
        enough_text(base, [domain], tolerance=0)
    with pytest.raises(SubmodelError, match="more --samples"):
        enough_text(base, [Samples("d", tiny.ids(1, 24))])


def test_from_the_command_line(llama: Path, texts: dict[str, Path], tmp_path: Path, capsys):
    own = [word for name, path in texts.items() for word in ("--calibration", f"{name}={path}:text")]
    words = ["extract", str(llama), *own, "--seq-len", "32", "--samples", "128", "--tokens", "auto"]
    words += ["--method", "wanda", "--no-check", "--out", str(tmp_path / "store")]
    assert cli.main([*words, "--tolerance", "0.05", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["submodels"]
    budgets = {manifest["calibration"]["tokens"] for manifest in found.values()}
    curves = [manifest["settling"] for manifest in found.values()]
    assert budgets == {max(curve["tokens"][-1] for curve in curves)} and budgets < {128 * 32} | budgets
    assert all(curve["distances"][-1] <= 0.05 < curve["distances"][-2] for curve in curves)
    assert cli.main(["info", f"{tmp_path}/store@python"]) == 0
    assert f"at {curves[0]['tokens'][-1]:,} tokens (distance to the masks" in capsys.readouterr().out
    assert cli.main([*words, "--tolerance", "0.05"]) == 0, "the same text, so the same sub-models"
    assert capsys.readouterr().out.count("there already") == 2

    with Store(tmp_path / "store").lock(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(enough_text_module, "enough_text", None)
        assert cli.main(words) == 2, "before any text has run"
    assert "another process is writing" in capsys.readouterr().err

    few = [*words[:-1], str(tmp_path / "few"), "--samples", "5", "--tolerance", "0.0001"]
    assert cli.main(few) == 0
    assert "python: not settled: " in capsys.readouterr().err
    assert cli.main(["info", f"{tmp_path}/few@python"]) == 0
    assert "5 x 32 = 160 tokens" in capsys.readouterr().out
    short = tmp_path / "short.jsonl"
    short.write_text("".join(texts["python"].read_text().splitlines(keepends=True)[:3]))
    all_there_is = [*words[:-1], str(tmp_path / "short"), "--calibration", f"short={short}:text"]
    assert cli.main([*all_there_is, "--samples", "100000", "--tolerance", "0.0001", "--json"]) == 0
    out, err = capsys.readouterr()
    budgets = {manifest["calibration"]["samples"] for manifest in json.loads(out)["submodels"].values()}
    assert len(budgets) == 1 and f"{short}: enough for {(fits := budgets.pop())} samples, not" in err
    assert f"all {fits} samples are used" in err
    assert cli.main([*all_there_is, "--samples", str(fits + 1), "--tokens", str(32 * (fits + 1))]) == 2
    assert f"({fits + 1} samples of 32): give more text" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main([*words[:-1], "x", "--tokens", "some"])
    assert stop.value.code == 2 and "give a number or auto" in capsys.readouterr().err
