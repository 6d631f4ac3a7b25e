"""--method auto: what it chooses within a time, what it says of it, and how it goes on after a kill."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from submodel.extract.auto import CANDIDATES, Choice, OverBudget, Pace

from submodel.base.opening import open_base
from submodel.calibration import Samples
from submodel.errors import SubmodelError
from submodel.extract import auto
from submodel.extract.job import extract
from submodel.prune.allocate.allocation import UNIFORM
from submodel.prune.learn import distil
from submodel.prune.sparsity import NM, RowSparsity
from submodel.store import Store
from submodel.store.verify import verify
from tests import tiny
from tests.test_cli import extract_options, run

DOMAINS = [Samples(name, tiny.ids(5, 24, seed)) for seed, name in enumerate(("a", "b"))]


class Clock:
    """Advances by the next of some seconds at every look."""

    def __init__(self, *steps: float, start: float = 0.0):
        self.steps, self.now = list(steps), start

    def __call__(self) -> float:
        self.now += self.steps.pop(0) if self.steps else 0.0
        return self.now


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every block of a walk took 100 seconds."""
    monkeypatch.setattr(Pace.__init__, "__defaults__", (Clock(*[0, 100] * 20, start=time.monotonic()),))


def masks_of(store: Path, name: str) -> str:
    return Store(store).manifest(name)["masks"]["sha256"]


def test_candidates_are_methods_that_leave_weights_as_they_are(llama: Path, tmp_path: Path):
    assert set(CANDIDATES) <= set(METHODS)
    for method in CANDIDATES:
        extract(open_base(str(llama)), DOMAINS[:1], tmp_path / method, method=method, routing=False, openings=0)
        assert "weights" not in Store(tmp_path / method).manifest("a")


def test_a_walk_is_judged_by_its_first_block():
    def pace(minutes: float | None, method: str = "swaps") -> Pace:
        found = Pace(Choice(minutes, method), units=24, started=0.0, clock=Clock(5, 20))  # block 0: from 5 to 25
        found.begin()
        return found

    whole = 25 + 23 * 20
    for minutes in (None, 8.5):
        one = pace(minutes)
        one.judge()
        assert one.choice.method == "swaps" and one.choice.estimates == ({"swaps": whole} if minutes else {})
    with pytest.raises(OverBudget) as over:
        pace(8).judge()
    assert over.value.seconds == whole
    last = pace(1, "wanda")  # nothing is quicker
    last.judge()
    assert last.choice.estimates == {"wanda": whole}
    assert Choice(8, "swaps").following(whole) == Choice(8, "wanda", {"swaps": whole})
    again = Pace(Choice(8, "swaps", {"swaps": 5.0}), units=24, started=0.0, clock=Clock(5, 20))
    again.begin()
    again.judge()  # decided by an earlier run
    assert again.choice.estimates == {"swaps": 5.0}


@pytest.mark.parametrize("pattern", [RowSparsity(0.5), NM(2, 4)], ids=str)
def test_without_a_time_it_is_the_best(pattern: Sparsity, llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    spread = UNIFORM if pattern.m else "marginal"
    run: Any = partial(extract, base, DOMAINS, pattern=pattern, dtype=torch.float32)
    run(tmp_path / "auto", method="auto")
    run(tmp_path / "wanda+distil", method="wanda+distil", allocation=spread)
    for name in ("a", "b"):
        manifest = Store(tmp_path / "auto").manifest(name)
        assert manifest["method"] == "wanda+distil" and manifest.get("allocation", UNIFORM) == spread
        assert masks_of(tmp_path / "auto", name) == masks_of(tmp_path / "wanda+distil", name)
        assert manifest["auto"] == {"minutes": None, "estimates": {}, "why": Choice(None, "wanda+distil").why}
    verify(tmp_path / "auto")
    again = run(tmp_path / "wanda+distil", method="auto")
    assert again.already == ["a", "b"]
    if not pattern.m:
        assert "allocation" not in run(tmp_path / "even", method="auto", allocation=UNIFORM).manifests["a"]


@pytest.mark.parametrize("pattern", [RowSparsity(0.5), NM(2, 4)], ids=str)
def test_a_short_time_is_wandas(pattern: Sparsity, llama: Path, tmp_path: Path, slow: None):
    base, out = open_base(str(llama)), tmp_path / "auto"
    found = extract(base, DOMAINS, out, method="auto", minutes=2, pattern=pattern, dtype=torch.float32)
    extract(base, DOMAINS, tmp_path / "wanda", method="wanda", pattern=pattern, dtype=torch.float32)
    for name, manifest in found.manifests.items():
        assert manifest["method"] == "wanda" and masks_of(out, name) == masks_of(tmp_path / "wanda", name)
        assert manifest["auto"]["minutes"] == 2 and set(manifest["auto"]["estimates"]) == set(CANDIDATES)
        assert manifest["auto"]["why"].startswith("wanda: wanda+distil would take about ")
        assert "openings" not in manifest  # what swaps wants is not wanda's
    verify(out)
    assert not (out / "work").exists()
    again = extract(base, DOMAINS, out, method="auto", minutes=2, pattern=pattern, dtype=torch.float32)
    assert again.already == ["a", "b"]
    with pytest.raises(SubmodelError, match="already there with another recipe"):
        extract(base, DOMAINS, out, method="auto", pattern=pattern, dtype=torch.float32)


@pytest.mark.parametrize("minutes, method", [(2, "wanda"), (60, "wanda+distil")])
def test_a_killed_run_keeps_its_choice(
    minutes: float, method: str, llama: Path, tmp_path: Path, slow: None, monkeypatch: pytest.MonkeyPatch
):
    """Killed in its second block it goes on with the same method and estimates, whatever the clock says then."""
    base, out = open_base(str(llama)), tmp_path / "auto"
    settings = {"method": "auto", "minutes": minutes, "dtype": torch.float32}
    note, noted = Choice.note, 0

    def killed(done: int, total: int) -> None:
        if noted == (2 if method == "wanda" else 1) and done > 0.6 * total:
            raise KeyboardInterrupt

    def count(choice: Choice, folder: Path) -> None:
        nonlocal noted
        noted += choice.method == method
        note(choice, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Choice, "note", count)
        with pytest.raises(KeyboardInterrupt):
            extract(base, DOMAINS, out, progress=killed, **settings)
    [file] = out.glob("work/*/auto.json")
    kept = json.loads(file.read_text())["estimates"]
    monkeypatch.setattr(Pace.__init__, "__defaults__", (lambda: 1e9,))
    found = extract(base, DOMAINS, out, **settings)
    assert found.resumed_blocks > 0
    for manifest in found.manifests.values():
        assert manifest["method"] == method and manifest["auto"]["estimates"] == kept
        assert manifest.get("allocation") == (None if method == "wanda" else "rows")


def test_a_model_too_large_for_gradients_is_walked(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distil, "_SCORE_BYTES", 1 << 40)
    found = extract(open_base(str(llama)), DOMAINS, tmp_path / "s", method="auto", dtype=torch.float32)
    assert all(manifest["method"] == "swaps" for manifest in found.manifests.values())


def test_refusals(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    for options, said in [
        ({"method": "wanda", "minutes": 3}, "it is auto that chooses by time"),
        ({"method": "auto", "minutes": 0}, "a time above 0"),
        ({"method": "autos"}, r"unknown method 'autos' \(did you mean 'auto'\?\)"),
    ]:
        with pytest.raises(SubmodelError, match=said):
            extract(base, DOMAINS, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists() and not auto.needs_text("magnitude") and auto.needs_text("auto")


def test_the_command_says_what_and_why(
    llama: Path, texts: dict[str, Path], tmp_path: Path, slow: None, capsys: pytest.CaptureFixture[str]
):
    words = extract_options(llama, texts, tmp_path / "s")
    status, out, err = run(capsys, *words, "--method", "auto", "--minutes", 2)
    [line] = [line for line in err.splitlines() if line.startswith("auto: ")]
    assert (
        status == 0 and line.startswith("auto: wanda: wanda+distil would take about") and "2 minutes are given" in line
    )
    status, out, _ = run(capsys, "info", f"{tmp_path / 's'}@python")
    assert status == 0 and line in out.splitlines() and out.startswith("wanda, sparsity 0.5")
    for more in (["--tokens", "auto"], ["--max-loss", 0.1, "--held-out", "nowhere.jsonl:text", "--minutes", 1]):
        status, out, err = run(capsys, *words, "--method", "auto", *more)
        assert status == 2 and err.count("\n") == 1
