"""Masks moved by gradients: against a literal reference, exact rows, families and patterns, padding, after a kill."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from submodel.base import native
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.calibration.samples import Provenance
from submodel.errors import SubmodelError
from submodel.extract import steps as steps_module
from submodel.extract.enough_text import enough_text
from submodel.extract.job import extract
from submodel.prune import gradients
from submodel.prune.gradients import DenseModel
from submodel.prune.learn import distil as module
from submodel.prune.learn.distil import Distilled, distil, first_scores
from submodel.prune.sparsity import NM, RowSparsity, Sparsity, keep_mask
from submodel.store import Masks, Store
from submodel.store.verify import verify
from tests import tiny
from tests.kill import KilledOnce
from tests.test_cli import run

SAMPLES = Samples("d", tiny.ids(11, 24))
HALF = RowSparsity(0.5)
to_float32 = partial(extract, dtype=torch.float32, routing=False)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "STEP_TOKENS", 48)
    monkeypatch.setattr(gradients, "NORM_TOKENS", 48)


@pytest.fixture(scope="module")
def wanda(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distil") / "store"
    to_float32(open_base(str(llama)), [SAMPLES], out, method="wanda")
    return out


@pytest.fixture(scope="module")
def fitted(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distil") / "fitted"
    to_float32(open_base(str(llama)), [SAMPLES], out, method="wanda+reconstruct")
    return out


def _moved(base: Base, start_of: Path, text: Samples, state: Path, rate: float = 0.0025) -> Distilled:
    start, dense = Store(start_of).masks("d"), DenseModel(base, torch.float32, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RATE", rate)
        return distil(dense, text, start, HALF, state=state, dtype=base.dtype)


def _distilled(base: Base, wanda: Path, text: Samples, state: Path, **options: Any) -> dict[str, np.ndarray]:
    return {name: mask.unpack() for name, mask in _moved(base, wanda, text, state, **options).masks.items()}


def _from(name: str, seed: int) -> Samples:
    """Samples that say where they came from."""
    ids = tiny.ids(11, 24, seed=seed)
    return Samples(name, ids, Provenance("text", None, "all", 0, 24, 11, ids.numel(), 1, {}, {}, f"{seed:064x}"))


def _note(norm: torch.Tensor, _: Any, inputs: tuple[torch.Tensor]) -> None:
    norm += inputs[0].detach()[0].square().sum(0)


def _literal(base: Base, begun: Masks, text: Samples) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[float]]:
    """The same in plain steps: weights as tensors of their own, torch's own divergence and gradients, sorted scores.

    Returns the masks, the weights that they are taken of, and the losses.
    """
    model = base.load(torch.float32)
    start = {name: torch.from_numpy(mask.unpack()) for name, mask in begun.items()}
    model.config.output_hidden_states = True
    weights = {name: model.get_parameter(name).detach().clone() for name in start}
    norms = {name: torch.zeros(weight.shape[1]) for name, weight in weights.items()}
    for name in start:
        model.get_submodule(name[: -len(".weight")]).register_forward_pre_hook(partial(_note, norms[name]))
    for ids in text.ids[:2]:
        model(ids[None])
    seen = {name: norm.clone() for name, norm in norms.items()}
    scores = {name: first_scores(w, start[name], seen[name], HALF) for name, w in weights.items()}
    for name, mask in begun.items():
        weights[name] = torch.where(start[name], mask.apply_to(weights[name].clone()), weights[name])
    keep, losses = dict(start), []
    squares: dict[str, torch.Tensor] = {}
    steps = [text.ids[0:2], text.ids[2:4], text.ids[4:6], text.ids[6:8], text.ids[8:11]]
    for number, step in enumerate(steps):
        masked = {name: (w * keep[name]).requires_grad_() for name, w in weights.items()}
        loss, drift = torch.zeros(()), torch.zeros(())
        for ids in step:
            dense, pruned = model(ids[None]), functional_call(model, masked, ids[None])
            wanted, said = (found.logits[0].log_softmax(-1) for found in (dense, pruned))
            loss = loss + functional.kl_div(said, wanted.detach(), reduction="sum", log_target=True) / step.numel()
            for h, other in zip(dense.hidden_states[1:], pruned.hidden_states[1:], strict=True):
                far = (h.detach() - other).square().sum(-1) / h.detach().square().sum(-1)
                drift = drift + far.sum() / step.numel() / (len(dense.hidden_states) - 1)
        losses.append(float(loss.detach()))
        slopes = torch.autograd.grad(loss + module.HIDDEN * drift, list(masked.values()))
        rate = 0.01 * (1 - number / 5)
        for name, slope in zip(masked, slopes, strict=True):
            pull = slope * weights[name]
            square = pull.square().mean(1, keepdim=True)
            squares[name] = 0.95 * squares.get(name, torch.zeros(())) + 0.05 * square
            scores[name] = scores[name] - rate * pull / (squares[name] / (1 - 0.95 ** (number + 1))).sqrt()
            removed = scores[name].shape[1] // 2
            threshold = scores[name].sort(1).values[:, removed - 1 : removed]
            keep[name] = scores[name] > threshold
    return keep, weights, losses


@pytest.mark.parametrize("begun", ["wanda", "fitted"])
def test_as_the_literal_reference(
    begun: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    monkeypatch.setattr(gradients, "_AT_ONCE", 7)
    base, start_of = open_base(str(llama)), request.getfixturevalue(begun)
    start = Store(start_of).masks("d")
    keep, weights, losses = _literal(base, start, SAMPLES)
    moved = _moved(base, start_of, SAMPLES, tmp_path / "state", rate=0.01)
    assert np.allclose(moved.losses, losses, rtol=1e-4)
    masks = {name: torch.from_numpy(mask.unpack()) for name, mask in moved.masks.items()}
    differing = sum(int((masks[n] != keep[n]).sum()) for n in keep)
    changed = sum(int((torch.from_numpy(start[n].unpack()) != keep[n]).sum()) for n in keep)
    assert changed > 100 and differing <= changed // 50, (changed, differing)  # scores that are equal but for rounding
    for name, mask in moved.masks.items():
        assert (mask.values is None) == (begun == "wanda")
        if mask.values is not None:
            own = mask.apply_to(torch.empty(masks[name].shape, dtype=base.dtype))
            assert torch.equal(own, (weights[name] * masks[name]).to(base.dtype))


PATTERNS = [HALF, RowSparsity(0), RowSparsity(0.31), NM(2, 4), NM(4, 8), NM(3, 7)]


def _matrix(shape: tuple[int, int], pattern: Sparsity, dtype: torch.dtype) -> module._Matrix:
    torch.manual_seed(sum(shape))
    parameter = nn.Parameter(torch.randn(shape).to(dtype))
    scores = torch.randint(-3, 4, shape).float()  # many are equal
    twin = gradients.Twin(parameter, parameter.data, parameter.data.clone())
    return module._Matrix(twin, pattern, scores, torch.zeros(shape[0], 1), parameter.data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 64), (37, 130), (20, 900)])
def test_moves_as_its_slow_twin(
    shape: tuple[int, int], dtype: torch.dtype, kernels: str, monkeypatch: pytest.MonkeyPatch
):
    """Scores within rounding, and exactly the mask that the scores say, ties too."""
    for pattern in PATTERNS:
        ours, twin = _matrix(shape, pattern, dtype), _matrix(shape, pattern, dtype)
        for step in range(3):
            gradient = torch.randn(shape).to(dtype) * (step > 0)  # none at first: nothing but ties
            ours.twin.parameter.grad, twin.twin.parameter.grad = gradient.clone(), gradient
            ours.move(0.02, step)
            with monkeypatch.context() as plain:
                plain.setattr(native, "library", lambda: None)
                twin.move(0.02, step)
            assert ours.twin.parameter.grad is None
            assert torch.allclose(ours.scores, twin.scores, rtol=1e-5, atol=1e-6)
            assert torch.allclose(ours.square, twin.square, rtol=1e-5, atol=1e-12)
            assert torch.equal(ours.twin.masked != 0, ours.keep()), (pattern, step)
            assert torch.equal(ours.twin.masked, ours.weights * ours.keep())
            twin.scores.copy_(ours.scores)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 130), (2, 9001)])
def test_a_divergence_and_its_gradient(
    shape: tuple[int, int], dtype: torch.dtype, kernels: str, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(sum(shape))
    dense, pruned = (3 * torch.randn(shape)).to(dtype), (3 * torch.randn(shape) + 40).to(dtype)
    dense[0, -1] = pruned[0, 0] = -1000.0  # no chance at all
    weights = torch.rand(shape[0])
    slopes, loss = gradients._divergence(dense, pruned, weights)
    with monkeypatch.context() as plain:
        plain.setattr(native, "library", lambda: None)
        wanted, expected = gradients._divergence(dense, pruned, weights)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert slopes.dtype == dtype
    assert torch.allclose(slopes.float(), wanted.float(), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_a_gradient_that_is_no_number_is_refused(kernels: str):
    matrix = _matrix((3, 16), HALF, torch.bfloat16)
    matrix.twin.parameter.grad = torch.full((3, 16), float("nan"), dtype=torch.bfloat16)
    with pytest.raises(SubmodelError, match="not a number"):
        matrix.move(0.01, 0)


@pytest.mark.parametrize("begun", ["wanda", "fitted"])
def test_says_more_of_what_the_dense_model_says(
    begun: str, llama: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    text = Samples("d", tiny.ids(8, 24, seed=1).repeat(6, 1))  # the same text over and over: its loss must fall
    start = request.getfixturevalue(begun)
    moved = _moved(open_base(str(llama)), start, text, tmp_path / "state", rate=0.05)
    assert np.mean(moved.losses[-4:]) < 0.8 * np.mean(moved.losses[:4]), moved.losses


def test_first_scores_make_the_mask_they_begin_with():
    torch.manual_seed(0)
    weight, norms = torch.randn(7, 53), torch.rand(53)
    for pattern in (HALF, RowSparsity(0.3), NM(2, 4)):
        keep = keep_mask(torch.rand(7, 53), pattern)  # not Wanda's
        scores = first_scores(weight, keep, norms, pattern)
        assert (scores[keep] >= 0).all() and (scores[~keep] <= 0).all()
        assert (keep_mask(scores - scores.amin(1, keepdim=True), pattern) != keep).sum() <= 7  # one of 0 in a row
        own = keep_mask(weight.square() * norms, HALF)
        distance = first_scores(weight, own, norms, HALF).abs()
        assert torch.allclose(distance, first_scores(weight, keep, norms, HALF).abs())  # how sure, whatever the side


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "opt", "phi3", "mixtral", "qwen3_moe"])
@pytest.mark.parametrize("pattern", [RowSparsity(0.6), NM(2, 4)], ids=str)
def test_every_family_and_pattern_stays_exact(family: str, pattern: Sparsity, tmp_path: Path):
    base = open_base(str(tiny.save(family, tmp_path / family)))
    out = tmp_path / "store"
    text = Samples("d", tiny.ids(4, 24))
    to_float32(base, [Samples("start", text.ids)], out, method="wanda", sparsity=pattern)
    to_float32(base, [text], out, method="wanda+distil", sparsity=pattern)
    verify(out)
    start, moved = Store(out).masks("start"), Store(out).masks("d")
    assert any((start[name].packed != moved[name].packed).any() for name in start)


def test_padding_is_not_read(llama: Path, wanda: Path, tmp_path: Path):
    base = open_base(str(llama))
    lengths = (24, 13, 24, 7)
    text = Samples("d", tiny.ids(4, 24), lengths=lengths)
    other = text.ids.clone()
    for ids, length in zip(other, lengths, strict=True):
        ids[length:] = 250
    found = _distilled(base, wanda, text, tmp_path / "a")
    again = _distilled(base, wanda, Samples("d", other, lengths=lengths), tmp_path / "b")
    assert all((found[name] == again[name]).all() for name in found)
    weighted = Samples("d", text.ids, lengths=lengths, weights=torch.rand(4, 24))
    assert any((found[n] != mask).any() for n, mask in _distilled(base, wanda, weighted, tmp_path / "c").items())


@pytest.mark.parametrize("start", ["wanda", "ria", "swaps", "wanda+reconstruct"])
def test_goes_on_after_an_interrupt(start: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SAVED_EVERY", -1)
    base, method = open_base(str(llama)), f"{start}+distil"
    domains = [SAMPLES, Samples("e", tiny.ids(11, 24, seed=5))]
    whole = to_float32(base, domains, tmp_path / "whole", method=method)
    steps = 3 if "reconstruct" in start else 5  # of a domain
    moves = KilledOnce(
        monkeypatch, module._Matrix, "move", 21 * (steps + 3)
    )  # 21 matrices: the second one's third step
    with pytest.raises(KeyboardInterrupt):
        to_float32(base, domains, tmp_path / "cut", method=method)
    moves.calls = 0
    done: list[tuple[int, int]] = []
    cut = to_float32(base, domains, tmp_path / "cut", method=method, progress=lambda a, b: done.append((a, b)))
    assert moves.calls <= 21 * (steps - 2), "the steps that were done are done again"
    assert done[-1][0] == done[-1][1] and done == sorted(done)
    for name in ("d", "e"):
        assert cut.manifests[name]["masks"]["sha256"] == whole.manifests[name]["masks"]["sha256"]
        assert cut.manifests[name].get("weights") == whole.manifests[name].get("weights")
        assert len(cut.manifests[name]["distil"]["losses"]) == steps
    assert not (tmp_path / "cut/work").exists()


@pytest.mark.parametrize(
    ("begun", "more", "step"),
    [
        ("wanda+distil", {"method": "wanda+distil", "grid": "int8"}, "Distil"),
        ("swaps", {"method": "swaps+distil"}, "Walk"),
        ("wanda", {"method": "wanda+distil", "allocation": "rows"}, "Walk"),
        ("wanda+reconstruct", {"method": "wanda+reconstruct+distil"}, None),
    ],
)
def test_what_is_there_is_not_made_again(
    begun: str, more: dict[str, Any], step: str | None, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    base, domains = open_base(str(llama)), [_from("a", 0), _from("b", 1)]
    whole = to_float32(base, domains, tmp_path / "whole", **more).manifests
    named = [replace(domain, name=f"{domain.name}-begun") for domain in domains]
    less = {key: value for key, value in more.items() if key == "allocation"}
    to_float32(base, named, tmp_path / "store", method=begun, **less)
    if step is None:  # a fit of all the text is not the fit of half of it, which gradients begin with
        result = to_float32(base, domains, tmp_path / "store", **more).manifests
        assert all("mask_of" not in manifest for manifest in result.values())
        return

    def refused(*_: Any, **__: Any):
        raise AssertionError("made again")

    monkeypatch.setattr(getattr(steps_module, step), "run", refused)
    done: list[tuple[int, int]] = []
    result = to_float32(base, domains, tmp_path / "store", progress=lambda a, b: done.append((a, b)), **more).manifests
    assert done[-1][0] == done[-1][1] and done == sorted(done)
    for name, manifest in result.items():
        same = ("key", "weights", "distil", "unseen_experts", "matrix_sparsity")
        assert all(manifest.get(key) == whole[name].get(key) for key in same)
        assert manifest["masks"]["sha256"] == whole[name]["masks"]["sha256"]
        assert manifest["mask_of"]["name"] == f"{name}-begun" and "mask_of" not in whole[name]
    assert not (tmp_path / "store/work").exists() and verify(tmp_path / "store")
    other = _from("c", 2)
    for others in ([other], [replace(domains[0], name="a2"), other]):
        with pytest.raises(AssertionError, match="made again"):
            to_float32(base, others, tmp_path / "store", **more)


@pytest.mark.parametrize(("most", "samples"), [(10_000, 5), (40, 2)])
def test_gradients_read_what_the_fit_has_not(
    most: int, samples: int, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Half of the text, or so many of its tokens as a fit reads at most."""
    monkeypatch.setattr(steps_module, "_FIT_TOKENS", most)
    seen: dict[str, list[torch.Tensor]] = {"walk": [], "distil": []}
    walk, distil_text = steps_module.walk, module.distil

    def walked(base: Base, texts: Any, **more: Any) -> int:
        seen["walk"].append(texts[0].ids)
        return walk(base, texts, **more)

    def distilled(dense: DenseModel, text: Samples, *rest: Any, **more: Any) -> Distilled:
        seen["distil"].append(text.ids)
        return distil_text(dense, text, *rest, **more)

    monkeypatch.setattr(steps_module, "walk", walked)
    monkeypatch.setattr(module, "distil", distilled)
    to_float32(open_base(str(llama)), [SAMPLES], tmp_path / "store", method="wanda+reconstruct+distil")
    (fit,), (rest,) = seen["walk"], seen["distil"]
    assert torch.equal(torch.cat([fit, rest]), SAMPLES.ids) and len(fit) == samples
    walk_key, distil_key = Store(tmp_path / "store").manifest("d")["steps"]
    assert walk_key["reads"] == {"tokens": most, "half": True}
    assert distil_key["reads"] == {"tokens": most, "half": True, "rest": True}
    with pytest.raises(SubmodelError, match="a part is for the fit"):
        one = SAMPLES.take(slice(1))
        to_float32(open_base(str(llama)), [one], tmp_path / "other", method="wanda+reconstruct+distil")
    assert not (tmp_path / "other").exists()


def test_a_mask_moves_over_fitted_weights(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RATE", 0.02)
    base, text = open_base(str(llama)), Samples("d", tiny.ids(12, 24))
    more: dict[str, Any] = {"method": "wanda+reconstruct+distil"}
    to_float32(base, [Samples("fit", text.ids[:6])], tmp_path / "s", method="wanda+reconstruct")
    to_float32(base, [text], tmp_path / "s", **more)
    to_float32(base, [replace(text, name="grid")], tmp_path / "s", grid="int8", **more)
    verify(tmp_path / "s")
    fit, moved, grid = (Store(tmp_path / "s").masks(name) for name in ("fit", "d", "grid"))
    dense, back = base.load(), 0
    for name, mask in moved.items():
        weight = dense.get_parameter(name).detach()
        own, before, rounded = (masks[name].apply_to(weight.clone()) for masks in (moved, fit, grid))
        stayed, new = (own != 0) & (before != 0), (own != 0) & (before == 0)
        assert torch.equal(own[stayed], before[stayed]) and torch.equal(own[new], weight[new])
        assert (before[stayed] != weight[stayed]).float().mean() > 0.9
        assert (mask.packed == grid[name].packed).all()
        assert 0 < (rounded - own).square().sum() < 0.1 * (rounded - weight)[stayed].square().sum()
        back += int(new.sum())
    assert back > 100


def test_the_walk_reads_a_part(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(steps_module, "_WALK_TOKENS", 49)
    seen: list[int] = []
    walk = steps_module.walk

    def walked(base: Base, texts: Any, **more: Any) -> int:
        seen.append(len(texts[0].ids))
        return walk(base, texts, **more)

    monkeypatch.setattr(steps_module, "walk", walked)
    to_float32(open_base(str(llama)), [SAMPLES], tmp_path / "store", method="wanda+distil")
    assert seen == [3]
    text = _from("a", 0)
    to_float32(open_base(str(llama)), [text], tmp_path / "other", method="wanda")
    to_float32(open_base(str(llama)), [replace(text, name="b")], tmp_path / "other", method="wanda+distil")
    assert seen[1:] == [11, 3], "a mask of more text is not where gradients begin"
    part = text.take(slice(3))
    to_float32(open_base(str(llama)), [part], tmp_path / "part", method="wanda")
    to_float32(open_base(str(llama)), [replace(text, name="b")], tmp_path / "part", method="wanda+distil")
    assert seen[3:] == [3], "a mask of the text that the walk would read is where they begin"
    status, said, _ = run(capsys, "info", f"{tmp_path / 'store'}@d")
    losses = Store(tmp_path / "store").manifest("d")["distil"]["losses"]
    assert status == 0 and f"{losses[0]:.3f} nats a token before the first of 5 steps" in said


def test_settling_speaks_of_norms_only(llama: Path):
    with pytest.raises(SubmodelError, match=r"auto with wanda\+distil"):
        enough_text(open_base(str(llama)), [SAMPLES], method="wanda+distil")


def test_a_model_that_does_not_fit_is_refused_before_anything_is_done(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_SCORE_BYTES", 1 << 40)
    with pytest.raises(SubmodelError, match=r"need [\d.]+ GiB, this machine has .*good or quick"):
        to_float32(open_base(str(llama)), [SAMPLES], tmp_path / "store", method="wanda+distil")
    assert not (tmp_path / "store").exists()


def test_the_rate_belongs_to_the_recipe(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = open_base(str(llama))
    usual = to_float32(base, [SAMPLES], tmp_path / "store", method="wanda+distil")
    monkeypatch.setattr(module, "RATE", 0.01)
    other = to_float32(base, [SAMPLES], tmp_path / "other", method="wanda+distil")
    assert other.manifests["d"]["masks"]["sha256"] != usual.manifests["d"]["masks"]["sha256"]
    with pytest.raises(SubmodelError, match="already there with another recipe"):
        to_float32(base, [SAMPLES], tmp_path / "store", method="wanda+distil")
