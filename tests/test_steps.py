"""Steps: what names stand for, what is refused, what a key holds, what a text decides, what Part gives a score."""

import ast
import importlib
import inspect
import pkgutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract import per_matrix
from submodel.extract.job import extract
from submodel.extract.plan import make_plan
from submodel.extract.recipe import step_keys
from submodel.extract.step import Excerpt, Step
from submodel.extract.steps import Allocate, Distil, Round, Walk, parse
from submodel.extract.workdir import BlockFiles
from submodel.prune import allocate, dense_target, gradients, learn, refit, rounding, scores, statistics
from submodel.prune.allocate import ALLOCATIONS, marginal, rows
from submodel.prune.learn import distil
from submodel.prune.scores import SCORES
from submodel.prune.scores.score import Part, Score, by_part_score
from submodel.prune.sparsity import RowSparsity
from submodel.store import Store
from tests import tiny
from tests.kill import KilledOnce

SAMPLES = Samples("d", tiny.ids(6, 24))


def test_what_names_stand_for():
    whole, part = Excerpt(), Excerpt(tokens=32768)
    half = Excerpt(tokens=16384, half=True)
    assert parse("wanda") == [Walk("wanda")]
    assert parse("swaps+reconstruct", grid="int4") == [Walk("swaps", fit=True, grid="int4")]
    assert parse("wanda+distil", "marginal") == [Allocate("marginal", part), Walk("wanda", excerpt=part), Distil(whole)]
    assert parse("ria+distil", grid="int8")[1:] == [Distil(whole), Round("int8", "ria", part)]
    fitted = [Walk("wanda", fit=True, excerpt=half), Distil(replace(half, rest=True), after_fit=True)]
    assert parse("wanda+reconstruct+distil") == fitted


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("wander", "did you mean 'wanda'"),
        ("auto", "now --effort best"),
        ("wanda+distil+reconstruct", "give wanda\\+reconstruct\\+distil"),
        ("sparsegpt+distil", "distil moves masks of wanda, ria, swaps, pursuit"),
        ("wanda+distill", "after the first name come"),
        ("wanda+reconstruct+reconstruct", "after the first name come"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(method: str, said: str):
    with pytest.raises(SubmodelError, match=said):
        parse(method)


def _modules(step: Step) -> list[ModuleType]:
    if isinstance(step, Allocate):
        rule = ALLOCATIONS[step.rule]
        assert rule is not None
        return [sys.modules[rule.counts.__module__], gradients]
    if isinstance(step, Distil):
        return [distil, gradients]
    if isinstance(step, Round):
        return [statistics, refit, rounding]
    assert isinstance(step, Walk)
    own = [sys.modules[SCORES[step.score].decide.__module__]]
    return own + [statistics, *([refit, dense_target] if step.fit else []), *([rounding, refit] if step.grid else [])]


STEPS: list[Step] = [
    *(Walk(score, fit=True) for score in SCORES),
    Walk("wanda", grid="int8"),
    *(Allocate(rule) for rule, entry in ALLOCATIONS.items() if entry),
    Distil(),
    Round("int4", "wanda"),
]


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_every_constant_is_in_the_key(step: Step, monkeypatch: pytest.MonkeyPatch):
    for module in _modules(step):
        for name, value in vars(module).items():
            if name.isupper() and type(value) in (int, float):
                before = step.key()
                with monkeypatch.context() as patch:
                    patch.setattr(module, name, value + 1)
                    assert step.key() != before, f"{module.__name__}.{name}"


PACKAGES = (scores, allocate, learn)


def test_every_module_of_a_step_is_in_a_key(monkeypatch: pytest.MonkeyPatch):
    """Also of modules that are added: each constant of each, changed alone, changes the key of some step."""
    names = [m.name for package in PACKAGES for m in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    modules = [*map(importlib.import_module, names), statistics, refit, rounding, dense_target, gradients]
    tried = 0
    for module in modules:
        for name, value in vars(module).items():
            if name.isupper() and type(value) in (int, float) and not _is_imported(module, name):
                before = [step.key() for step in STEPS]
                with monkeypatch.context() as patch:
                    patch.setattr(module, name, value + 1)
                    assert [step.key() for step in STEPS] != before, f"{module.__name__}.{name}"
                tried += 1
    assert tried > 20


def _is_imported(module: ModuleType, name: str) -> bool:
    """Whether a module has a constant of another module under its name."""
    tree = ast.parse(inspect.getsource(module))
    return any(isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names} for node in ast.walk(tree))


def test_a_key_hangs_on_the_text_that_is_read_and_no_more(llama: Path):
    base, long = open_base(str(llama)), Samples("d", tiny.ids(40, 1024))

    def keys(method: str, text: Samples) -> list[str]:
        plan = make_plan(base, [text], method=method, dtype=torch.float32)
        return step_keys(plan.job, plan.steps, text)

    assert keys("wanda", long.take(slice(32)))[-1] == keys("wanda+distil", long)[0] != keys("wanda", long)[-1]
    assert keys("magnitude", long) == keys("magnitude", long.take(slice(1)))
    changed = replace(long, ids=long.ids.clone())
    changed.ids[39, 0] += 1
    one, other = keys("wanda+distil", long), keys("wanda+distil", changed)
    assert one[0] == other[0] and one[1] != other[1]


CASES: list[dict[str, Any]] = [
    {"method": "wanda"},
    {"method": "pursuit"},
    {"method": "wanda+reconstruct", "grid": "int8"},
    {"method": "wanda+distil", "allocation": "rows", "grid": "int4"},
    {"method": "wanda+reconstruct+distil", "allocation": "marginal"},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case.values()))
def test_killed_between_steps_and_started_again(
    case: dict[str, Any], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whichever step is cut, the finished ones are not run again, and what comes of it is the same bit for bit."""
    monkeypatch.setattr(distil, "STEP_TOKENS", 48)
    base, kinds = open_base(str(llama)), [Allocate, Walk, Distil, Round]
    whole = extract(base, [SAMPLES], tmp_path / "whole", dtype=torch.float32, **case).manifests["d"]
    steps = parse(case["method"], case.get("allocation", "uniform"), case.get("grid"))
    for number, cut in enumerate(steps):
        out = tmp_path / f"cut{number}"
        with monkeypatch.context() as patch:
            KilledOnce(patch, type(cut), "run", 1)
            with pytest.raises(KeyboardInterrupt):
                extract(base, [SAMPLES], out, dtype=torch.float32, **case)
        with monkeypatch.context() as patch:
            runs = {kind: KilledOnce(patch, kind, "run", 99) for kind in kinds}
            again = extract(base, [SAMPLES], out, dtype=torch.float32, **case).manifests["d"]
        assert [runs[type(step)].calls for step in steps] == [int(at >= number) for at in range(len(steps))]
        assert (again["masks"]["sha256"], again.get("weights")) == (whole["masks"]["sha256"], whole.get("weights"))
        assert not (out / "work").exists()


# a step that is killed within: where, at which call, and its recipe
CUTS: list[tuple[Any, str, int, dict[str, Any]]] = [
    (marginal, "learn", 13, {"method": "wanda", "allocation": "marginal"}),  # 6 samples a round
    (rows, "sampled_label_slopes", 8, {"method": "wanda", "allocation": "rows"}),  # of the second domain
    (BlockFiles, "keep", 2, {"method": "wanda"}),
    (BlockFiles, "keep", 3, {"method": "ria+reconstruct"}),
    (BlockFiles, "keep", 2, {"method": "wanda+reconstruct", "grid": "int4"}),
    (distil._Matrix, "move", 21 * 2 + 1, {"method": "swaps+distil"}),  # 21 matrices: the third step
    (distil._Matrix, "move", 21 * 2 + 5, {"method": "wanda+reconstruct+distil"}),
    (BlockFiles, "keep", 5, {"method": "wanda+distil", "grid": "int8"}),  # in the walk that rounds
]


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: "-".join([cut[1], *cut[3].values()]))
def test_killed_within_a_step_and_started_again(
    cut: tuple[Any, str, int, dict[str, Any]], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(distil, "STEP_TOKENS", 24)
    monkeypatch.setattr(distil, "_SAVED_EVERY", -1)
    (owner, function, call, case), domains = cut, [SAMPLES, Samples("e", tiny.ids(5, 24, seed=1))]
    run = partial(extract, open_base(str(llama)), domains, dtype=torch.float32, batch_tokens=48, routing=False, **case)
    whole = run(tmp_path / "whole").manifests
    with monkeypatch.context() as patch:
        calls = KilledOnce(patch, owner, function, call)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
        calls.calls = 0
        again = run(tmp_path / "cut").manifests
        resumed, calls.calls = calls.calls, 0
        run(tmp_path / "once more")
    assert resumed < calls.calls, "what was done is done again"
    for name, manifest in again.items():
        assert (manifest["masks"]["sha256"], manifest.get("weights"), manifest.get("matrix_sparsity")) == (
            whole[name]["masks"]["sha256"],
            whole[name].get("weights"),
            whole[name].get("matrix_sparsity"),
        )
    assert not (tmp_path / "cut/work").exists()


def _chance(weight: torch.Tensor, inputs: None, part: Part) -> torch.Tensor:
    return torch.rand(weight.shape, generator=part.generator())


def test_a_score_may_know_its_matrix_its_rows_and_a_seed(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(SCORES, "random", Score("drawn by chance", None, by_part_score(_chance)))
    base = open_base(str(llama))
    digests: list[str] = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        extract(base, [SAMPLES], tmp_path / run, method="random", seed=seed, dtype=torch.float32)
        digests.append(Store(tmp_path / run).manifest("d")["masks"]["sha256"])
    assert digests[0] == digests[1] != digests[2]
    ones = torch.ones(4, 30)
    one, other = (SCORES["random"].prune(ones, None, RowSparsity(0.5), Part("w", first=at)).keep for at in (0, 4))
    assert not torch.equal(one, other)


def _chance_of_rows(weight: torch.Tensor, inputs: None, part: Part) -> torch.Tensor:
    rows = [replace(part, first=part.first + row).generator() for row in range(len(weight))]
    return torch.stack([torch.rand(weight.shape[1], generator=generator) for generator in rows])


def test_a_score_of_single_rows_does_not_hang_on_their_parts(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(SCORES, "random", Score("drawn by chance", None, by_part_score(_chance_of_rows)))
    digests: list[str] = []
    for weights in (1 << 20, 200):
        monkeypatch.setattr(per_matrix, "_AT_ONCE", weights)
        out = tmp_path / str(weights)
        extract(open_base(str(llama)), [SAMPLES], out, method="random", dtype=torch.float32)
        digests.append(Store(out).manifest("d")["masks"]["sha256"])
    assert digests[0] == digests[1]
