"""--effort: a choice that hangs on the model, the sparsity and the memory, never on time; the plan before any work."""

import json
from pathlib import Path

import pytest
import torch

from submodel import cli
from submodel.base.opening import open_base
from submodel.calibration import Samples, packing
from submodel.cli import extract_options, options
from submodel.errors import SubmodelError
from submodel.extract.effort import method_for
from submodel.extract.job import extract
from submodel.extract.plan import make_plan
from submodel.prune import gradients
from submodel.prune.sparsity import NM, RowSparsity
from submodel.runtime.packed import formats
from tests import tiny

DOMAINS = [Samples("d", tiny.ids(5, 24))]


def test_each_effort_stands_for_a_method(llama: Path, monkeypatch: pytest.MonkeyPatch):
    base, half = open_base(str(llama)), RowSparsity(0.5)

    def chosen(effort: str, sparsity: RowSparsity | NM = half) -> tuple[str, str]:
        method = method_for(effort, base, sparsity, torch.float32, "cpu")
        return method.name, method.allocation

    assert chosen("quick") == ("wanda", "uniform")
    assert chosen("good") == chosen("best", NM(2, 4)) == ("wanda+reconstruct", "uniform")
    assert chosen("best") == ("wanda+distil", "marginal")
    monkeypatch.setattr(gradients.os, "sysconf", lambda name: 100)
    assert chosen("best") == chosen("good"), "without the memory for the whole model best is good"
    with pytest.raises(SubmodelError, match="unknown effort 'bets' \\(did you mean 'best'"):
        chosen("bets")


def test_good_is_the_default_and_a_method_excludes_an_effort(llama: Path, tmp_path: Path):
    base = open_base(str(llama))
    result = extract(base, DOMAINS, tmp_path / "s", dtype=torch.float32)
    assert result.manifests["d"]["method"] == "wanda+reconstruct"
    assert extract(base, DOMAINS, tmp_path / "s", dtype=torch.float32, effort="good").already == ["d"]
    with pytest.raises(SubmodelError, match="--effort good chooses a method"):
        extract(base, DOMAINS, tmp_path / "s", method="wanda", effort="good")


def test_a_plan_says_every_step_and_counts_what_progress_counts(llama: Path, tmp_path: Path):
    plan = make_plan(open_base(str(llama)), DOMAINS, effort="best", dtype=torch.float32)
    assert [step.name for step in plan.steps] == ["marginal", "walk", "distil"]
    assert len(plan.lines) == 4 and "50% of the weights removed by marginal, for d (120 tokens)" in plan.lines[0]
    assert plan.seconds > 0 and plan.memory_bytes > 0
    told: list[tuple[int, int]] = []
    extract(
        plan.job.base,
        DOMAINS,
        tmp_path / "s",
        effort="best",
        dtype=torch.float32,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == sorted(told) and told[-1] == (plan.block_tokens, plan.block_tokens)


@pytest.mark.parametrize("effort", ["quick", "good", "best"])
def test_dry_run_prints_the_plan_and_writes_nothing(
    effort: str, llama: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, text = tmp_path / "store", f"d={texts['python']}"
    command = ["extract", str(llama), "--domain", text, "--tokens", "256", "--seq-len", "64", "--effort", effort]
    assert cli.main([*command, "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("plan: wanda") and not out.exists()
    assert cli.main([*command, "--out", str(out), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["tokens"] == {"d": 256} and document["steps"] and not out.exists()


def test_the_summary_says_what_was_lost_and_what_to_do_next(
    llama: Path, texts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, text = tmp_path / "store", f"d={texts['python']}"
    command = ["extract", str(llama), "--domain", text, "--tokens", "256", "--seq-len", "64", "--effort", "quick"]
    assert cli.main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "plan: wanda, 50% of the weights removed" in printed.err
    for part in ("held-out tokens: perplexity", "MB on disk", "memory:", "of all", "next: submodel generate"):
        assert part in printed.out, part
    manifest = json.loads((out / "submodels/d/manifest.json").read_text())
    assert manifest["check"]["tokens"] > 0 and manifest["parameters"] > 0
    assert cli.main([*command, "--name", "unchecked", "--no-check", "--out", str(out)]) == 0
    assert "check" not in json.loads((out / "submodels/unchecked/manifest.json").read_text())


def test_the_command_knows_what_its_help_must_not_wait_for():
    assert (extract_options.TOKENS, extract_options.SEQ_LEN) == (packing.TOKENS, packing.SEQ_LEN)
    for name in ("SURVIVORS", "MASKED", "GRIDS"):
        assert set(getattr(options, name)) == set(getattr(formats, name)), name
    assert set(options.FORMATS) == set(formats.FORMATS)
