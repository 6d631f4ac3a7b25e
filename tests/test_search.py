"""The highest sparsity under a bound: the search itself, and a tiny model end to end."""

from dataclasses import replace

import numpy as np
import pytest

from submodel.base.opening import open_base
from submodel.calibration import load_samples
from submodel.errors import SubmodelError
from submodel.extract import bound
from submodel.extract.bound import STEPS, Trial, highest, search
from submodel.store import Store
from submodel.store.verify import verify
from tests import tiny


@pytest.mark.parametrize("bound", [0.0, 0.04, 0.05, 0.31, 0.5, 0.949, 0.95, 2.0])
def test_halving_ends_at_the_edge(bound: float):
    trials = highest(lambda s: Trial(s, s, s, s), bound)
    good = [t.sparsity for t in trials if t.loss <= bound]
    assert max(good, default=None) == max((s for s in STEPS if s <= bound), default=None)
    assert len(trials) <= 5 and len({t.sparsity for t in trials}) == len(trials)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    base = open_base(str(tiny.save("llama", folder / "base")))
    calibration, other = (tiny.write_jsonl(folder / f"{kind}.jsonl", kind) for kind in ("python", "prose"))
    domain = load_samples("python", str(calibration), base.tokenizer, samples=4, seq_len=32, seed=0)
    held_out = load_samples("other", str(other), base.tokenizer, samples=8, seq_len=32, seed=0)
    return base, domain, held_out, folder


def test_search_keeps_the_best_trial(given):
    base, domain, held_out, folder = given
    lines: list[str] = []
    found = search(base, domain, held_out, folder / "out.store", 0.02, say=lines.append, method="wanda")
    manifest = Store(found.store).manifest("python")
    assert found.already == [] and found.manifests == {"python": manifest}
    trials = manifest["search"]["trials"]
    assert [f"{t['sparsity']:.2f}" for t in trials] == [line.partition(":")[0] for line in lines]
    good = [t for t in trials if t["loss"] <= 0.02]
    assert manifest["sparsity"] == max(t["sparsity"] for t in good)
    assert any(t["loss"] > 0.02 for t in trials) or manifest["sparsity"] == STEPS[-1]
    assert not (folder / "out.store.search").exists()
    assert dict(verify(found.store, None))
    assert (found.store / "submodels" / "python" / "routing.safetensors").is_file()
    (found.store / "submodels" / "python" / "routing.safetensors").unlink()
    again = search(base, domain, held_out, folder / "out.store", 0.02, method="wanda")
    assert again.already == ["python"] and again.manifests == found.manifests
    assert (found.store / "submodels" / "python" / "routing.safetensors").is_file()
    with pytest.raises(SubmodelError, match="already there"):
        search(base, domain, held_out, folder / "out.store", 0.03, method="wanda")
    assert not (folder / "out.store.search").exists()


def test_a_search_that_was_stopped_before_its_end(given, monkeypatch):
    base, domain, held_out, folder = given
    with monkeypatch.context() as patch:
        patch.setattr(bound, "fit_routing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(base, domain, held_out, folder / "stopped.store", 0.02, method="wanda")
    lines: list[str] = []
    found = search(base, domain, held_out, folder / "stopped.store", 0.02, say=lines.append, method="wanda")
    assert found.already == ["python"] and not lines and not (folder / "stopped.store.search").exists()
    assert (found.store / "submodels" / "python" / "routing.safetensors").is_file()


def interrupted(*_):
    raise KeyboardInterrupt


def test_two_searches_beside_one_store(given):
    base, domain, held_out, folder = given
    first = replace(domain, name="first")
    whole = search(base, first, held_out, folder / "two.store", 0.02, method="wanda")

    def meanwhile(line: str) -> None:
        search(base, first, held_out, folder / "two.store", 0.02, method="wanda", routing=False)
        with pytest.raises(SubmodelError, match="another process searches"):
            search(base, domain, held_out, folder / "two.store", 0.02, method="wanda")

    found = search(base, domain, held_out, folder / "two.store", 0.02, say=meanwhile, method="wanda")
    assert set(Store(found.store).names) == {"first", "python"}
    trials = [store["search"]["trials"] for store in (found.manifests["python"], whole.manifests["first"])]
    assert trials[0] == trials[1]
    assert not (folder / "two.store.search").exists()


def test_held_out_text_that_is_calibrated_on(given):
    base, domain, _, folder = given
    with pytest.raises(SubmodelError, match="is calibrated on .* of its rows"):
        search(base, domain, domain, folder / "seen.store", 0.02, method="wanda")
    assert not list(folder.glob("seen.store*"))


def test_a_bound_that_nothing_meets(given, monkeypatch):
    base, domain, held_out, folder = given
    measured = iter(range(10))  # every model loses a nat more than the one before it
    monkeypatch.setattr(bound, "window_losses", lambda model, samples: np.full(8, float(next(measured))))
    with pytest.raises(SubmodelError, match="5% already costs"):
        search(base, domain, held_out, folder / "none.store", 0.5, method="magnitude")
    assert not list(folder.glob("none.store*"))
    with pytest.raises(SubmodelError, match="nats a token"):
        search(base, domain, held_out, folder / "none.store", -1.0)
