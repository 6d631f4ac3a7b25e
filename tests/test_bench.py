"""The comparison of models: who takes part, the run in processes, its rows and table; llama.cpp where it is there."""

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.picture import picture, ticks
from submodel import bench
from submodel.base.gguf.source import Gguf
from submodel.base.models import Base
from submodel.base.opening import open_base
from submodel.bench import contender, ours, peer
from submodel.bench.child import Child
from submodel.bench.run import speed_rows
from submodel.cli import main
from submodel.errors import SubmodelError
from submodel.runtime import load
from submodel.tasks.rows import Row, read_rows
from tests import tiny
from tests.test_packed_models import export, store_of

_SVG = "{http://www.w3.org/2000/svg}"


def _row(**changes: Any) -> Row:
    about: dict[str, Any] = {
        "model": "m",
        "submodel": "dense",
        "masks": None,
        "weights": "0" * 64,
        "task": "bench",
        "data": {"name": "speed"},
        "metric": "",
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
        "n": 0,
        "settings": {"dtype": "bfloat16"},
        "versions": {},
        "machine": "a processor, 1 threads",
        "seconds": 0.0,
    }
    return Row(**{**about, **changes})


@pytest.mark.parametrize("native", [True, False])
def test_who_takes_part(native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contender, "multiplies", lambda dtype: native or dtype == torch.float32)
    reference = store_of(tmp_path, "llama")
    export(reference, tmp_path / "packed", "packed-int8")
    opened: dict[str, Base] = {}
    model = str(tmp_path / "llama")
    found = bench.contenders([reference, str(tmp_path / "packed"), model], ["bf16", "shared"], opened)
    assert [(one.engine, one.reference, one.form) for one in found] == [
        ("transformers", model, None),
        *([] if native else [("transformers", model, "float32")]),
        ("submodel", model, "dense"),
        ("submodel", model, "dense-int8"),
        ("submodel", reference, "bf16"),
        ("submodel", reference, "shared"),
        ("submodel", str(tmp_path / "packed"), None),
    ]
    assert list(opened) == [model]
    for given, message in [
        (([reference], ["int9"]), "unknown format of a sub-model 'int9'"),
        (([reference], ["dense"]), "unknown format of a sub-model 'dense'"),
        (([reference[:-4] + "third"], ["bf16"]), "unknown sub-model"),
    ]:
        with pytest.raises(SubmodelError, match=message):
            bench.contenders(*given, {})


def test_rows_are_medians_of_rounds():
    plan = bench.Plan(prompt_tokens=100, new_tokens=3, rounds=5)
    taken = [{"prefill": t, "steps": [t / 10, t / 20, t / 20]} for t in (1.0, 2.0, 4.0, 5.0, 50.0)]
    size = {"row": asdict(_row()), "weight_bytes": 7, "resident_bytes": None}
    rows = {row.metric: row for row in speed_rows(size, taken, plan)}
    assert rows.keys() == {"weight_bytes", "prefill_tokens_s", "decode_tokens_s"}
    assert (
        rows["prefill_tokens_s"].value == 25 and rows["decode_tokens_s"].value == 5 and rows["weight_bytes"].value == 7
    )
    for row in rows.values():
        assert row.low <= row.value <= row.high and row.settings["threads"] == 1 and row.machine == "a processor"
    assert rows["decode_tokens_s"].low < 5 < rows["decode_tokens_s"].high and rows["decode_tokens_s"].n == 15


def test_table_has_a_line_a_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    forms = {"threads": 2, "prompt_tokens": 8, "new_tokens": 4, "dtype": "bfloat16"}
    rows = [
        _row(metric="decode_tokens_s", value=v, low=v, high=v, settings={**forms, **own}, submodel=name)
        for name, own, v in [
            ("dense", {}, 1.0),
            ("dense", {"format": "llama.cpp Q8_0"}, 2.0),
            ("coder", {"format": "int8"}, 3.0),
            ("coder", {"format": "int8"}, 4.0),
        ]
    ]
    text = {"name": "a/b/c.jsonl"}
    settings = {"format": "int8", "dtype": "bfloat16", "tokens": 10}
    rows.append(
        _row(task="perplexity", metric="perplexity", value=9.125, submodel="coder", data=text, settings=settings)
    )
    lines = bench.table(rows).splitlines()
    assert lines[0].split() == ["model", "program", "format", "decode", "tok/s", "perplexity", "b/c.jsonl"]
    assert lines[1].split() == ["dense", "transformers", "bfloat16", "1.0", "[1.0,", "1.0]", "-"]
    assert lines[2].split()[:4] == ["dense", "llama.cpp", "Q8_0", "2.0"]
    assert lines[3].split()[:4] == ["coder", "submodel", "int8", "4.0"] and "9.12" in lines[3]
    assert "2 threads a contender" in lines[4]
    longer = replace(rows[-1], value=8.5, settings={**settings, "tokens": 20})
    heads = bench.table([*rows, longer]).splitlines()[0]
    assert "c.jsonl, tokens 10" in heads and "c.jsonl, tokens 20" in heads
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert main(["report", str(file)]) == 0  # the same table, not one of shares of problems solved
    assert capsys.readouterr().out.splitlines() == lines


def test_a_child_that_dies_or_refuses_is_one_line():
    dying = Child("a model", [sys.executable, "-c", "import sys; sys.exit('out of luck')"], 1)
    with pytest.raises(SubmodelError, match="^a model: its process ended: out of luck$"):
        dying.ask("start")
    dying.close()
    killed = Child("a model", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 1)
    with pytest.raises(SubmodelError, match="^a model: its process was killed by signal 9: without a word$"):
        killed.ask("start")
    killed.close()
    program = 'import sys; [print(\'{"error": "no such thing"}\', flush=True) for line in sys.stdin]'
    refusing = Child("a model", [sys.executable, "-c", program], 1)
    with pytest.raises(SubmodelError, match="^a model: no such thing$"):
        refusing.ask("start")
    refusing.close()


def test_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Through the command line, in a process: speed and perplexity; a task that is there is not measured again."""
    export(store_of(tmp_path, "llama"), tmp_path / "packed", "packed-int8")
    text = tmp_path / "text.txt"
    text.write_text("some words to read " * 40)
    out = tmp_path / "rows.jsonl"
    command = ["bench", str(tmp_path / "packed"), "--rounds", "2", "--prompt-tokens", "12", "--new-tokens", "3"]
    command += ["--task", f"perplexity:{text}", "--seq-len", "64", "--tokens", "256", "--out", str(out), "--json"]
    assert main(["eval", str(tmp_path / "packed"), *command[8:]]) == 0
    [there] = read_rows(out)
    capsys.readouterr()
    assert main(command) == 0
    rows = [Row(**row) for row in json.loads(capsys.readouterr().out)["rows"]]
    assert {row.metric for row in rows} == {
        "weight_bytes", "resident_bytes", "prefill_tokens_s", "decode_tokens_s", "perplexity"
    }  # fmt: skip
    assert rows[-1] == there and read_rows(out) == [there, *rows[:-1]]
    for row in rows:
        assert 0 < row.low <= row.value <= row.high and row.submodel == "half" and row.settings["format"] == "int8"


@pytest.mark.parametrize("form", [None, "float32", "int8"])
def test_a_contender_in_its_process(form: str | None, tmp_path: Path):
    """What a child answers: as transformers runs the base, and as we run a sub-model."""
    reference, model = store_of(tmp_path, "llama"), str(tmp_path / "llama")
    packed = form == "int8"
    who = bench.Contender("submodel", reference, form) if packed else bench.Contender("transformers", model, form)
    about = {"threads": 1, "prompt_tokens": 9, "new_tokens": 4, "trust_remote_code": False}
    before = torch.get_num_threads()
    try:
        answers = ours.start({"contender": asdict(who), **about})
    finally:
        torch.set_num_threads(before)
    for _ in range(2):
        taken = answers["measure"]()
        assert taken["prefill"] > 0 and len(taken["steps"]) == 4 and min(taken["steps"]) > 0
    size = answers["size"]()
    row = Row(**size["row"])
    assert (row.submodel, row.settings.get("format")) == (("half", "int8") if packed else ("dense", None))
    stored = sum(p.numel() for p in load(str(tmp_path / "llama")).model.parameters()) * 2
    assert size["weight_bytes"] < stored if packed else size["weight_bytes"] == stored * (2 if form else 1)
    assert packed or row.settings["dtype"] == (form or "bfloat16")


def test_base_as_bf16_gguf(tmp_path: Path):
    """What llama.cpp is given has the base's weights in bfloat16 and the metadata; another base's file is refused."""
    from gguf import GGUFReader

    source = tiny.save_gguf(tmp_path / "base.gguf")
    peer.write_bf16(source, tmp_path / "bf16.gguf")
    one, two = (open_base(str(tmp_path / name)).source for name in ("base.gguf", "bf16.gguf"))
    assert isinstance(one, Gguf) and isinstance(two, Gguf) and one.names == two.names
    assert all(torch.equal(one.get(name).bfloat16(), two.get(name)) for name in one.names)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "bf16.gguf").tensors}
    assert kinds["token_embd.weight"] == kinds["blk.1.ffn_up.weight"] == "BF16" and kinds["output_norm.weight"] == "F32"
    assert one.fields == two.fields
    base = open_base(str(tiny.save("llama", tmp_path / "llama", torch.bfloat16)))
    peer.refuse_others(base, source)
    changed: Any = base.load()
    changed.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(
        SubmodelError, match="layers.1.mlp.up_proj.weight is not that of .*changed: give the base's own"
    ):
        peer.refuse_others(open_base(str(tmp_path / "changed")), source)


@pytest.mark.skipif("SUBMODEL_TEST_LLAMA" not in os.environ, reason="names a Python that has llama-cpp-python")
def test_llama(real_model: Path, tmp_path: Path):
    """On the real model: its files are written once, its perplexity in bfloat16 is ours."""
    base = open_base(str(real_model))
    python, out, said = os.environ["SUBMODEL_TEST_LLAMA"], tmp_path / "rows.jsonl", []
    found = peer.llama_contenders({base.reference: base}, python, None, out, said.append)
    assert [one.form for one in found] == list(peer.TYPES) and len(said) == 3
    assert peer.llama_contenders({base.reference: base}, python, None, out, said.append) == found and len(said) == 3
    text = tmp_path / "text.txt"
    text.write_text(Path(__file__).read_text())
    settings = {"tokens": 512, "seq_len": 256}
    plan = bench.Plan(rounds=2, new_tokens=2, tasks=(f"perplexity:{text}",), settings=settings, llama_python=python)
    ours_too = [bench.Contender("transformers", base.reference, None)]
    rows = list(bench.run([*ours_too, *found], plan, out, {base.reference: base}))
    values = [row.value for row in rows if row.metric == "perplexity"]
    assert values[1] == pytest.approx(values[0], rel=0.02) and len(values) == 4
    sizes = [row.value for row in rows if row.metric == "weight_bytes"]
    assert sizes[1] > sizes[2] > sizes[3]


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference = store_of(tmp_path, "llama")
    out = str(tmp_path / "rows.jsonl")
    for options, message in [
        (["--rounds", "0"], "--rounds 0: give a larger number"),
        (["--formats", "int9"], "unknown format"),
        (["--task", "chess"], "unknown task 'chess'"),
        (["--gguf", str(tmp_path / "none.gguf")], "none.gguf: no such file"),
    ]:
        assert main(["bench", reference, "--out", out, *options]) == 2
        assert message in capsys.readouterr().err


def test_llama_that_is_not_there_is_said(tmp_path: Path):
    said: list[str] = []
    file = tmp_path / "base.gguf"
    file.write_bytes(b"")
    nothing = str(tmp_path / "python")
    Path(nothing).write_text("#!/bin/sh\nexit 1\n")
    os.chmod(nothing, 0o755)
    bases: Any = {"base": None}
    assert peer.llama_contenders(bases, nothing, str(file), tmp_path / "rows.jsonl", said.append) == []
    assert "has no llama_cpp" in said[0]
    with pytest.raises(SubmodelError, match="compare them one by one"):
        peer.llama_contenders({"a": bases["base"], "b": bases["base"]}, nothing, str(file), tmp_path / "r", said.append)


def test_the_picture():
    """A point for each contender with both figures, whatever their order; the last row of a thing counts."""
    rows: list[Row] = []
    speed = {"threads": 2, "prompt_tokens": 8, "new_tokens": 4, "dtype": "bfloat16"}
    for name, form, size, rate, value in [
        ("dense", None, 1000.0, 5.0, 10.0),
        ("dense", "llama.cpp Q8_0", 500.0, 12.0, 10.1),
        ("co<der", "int8", 300.0, 20.0, 12.0),
        ("half", "int4", 200.0, 25.0, None),
    ]:
        own = {"format": form} if form else {}
        for metric, figure in (("weight_bytes", size * 1e6), ("decode_tokens_s", rate)):
            same = {"value": figure, "low": figure, "high": figure}
            rows.append(_row(submodel=name, metric=metric, settings={**speed, **own}, **same))
        if value:
            quality = {"task": "perplexity", "metric": "perplexity", "n": 5000, "data": {"name": "t"}}
            settings = {"dtype": "bfloat16", **own}
            rows.append(_row(submodel=name, value=value, low=value - 1, high=value + 1, settings=settings, **quality))
    text = picture(rows, "perplexity", "a < note")
    drawn = ElementTree.fromstring(text)
    labels = [element.text for element in drawn.iter(f"{_SVG}text")]
    assert labels.count("co<der int8") == labels.count("Q8_0") == 2 and "half int4" not in labels
    assert any("5,000 tokens" in str(label) for label in labels) and any("a < note" in str(label) for label in labels)
    circles = [element for element in drawn.iter(f"{_SVG}circle")]
    assert len(circles) == 2 * 3 + 3
    left = [float(circle.attrib["cx"]) for circle in circles[:3]]
    assert left[0] > left[1] > left[2]  # bytes fall
    heights = [float(circle.attrib["cy"]) for circle in circles[:3]]
    assert heights[0] > heights[1] > heights[2]  # perplexity rises
    again = picture([replace(row, submodel=name) for row in rows for name in ("one", "two")], "perplexity")
    places = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in ElementTree.fromstring(again).iter(f"{_SVG}text")]
    assert len(set(places)) == len(places)  # labels of points in one place
    with pytest.raises(ValueError, match="no row of pass@1"):
        picture(rows, "pass@1")


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.31, 0.52, [0.35, 0.4, 0.45, 0.5]), (-3, 3, [-3, -2, -1, 0, 1, 2, 3])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == pytest.approx(expected)
