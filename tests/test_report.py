"""Tables of rows: a table a model, a column for every distinct setting, what an extraction took."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from submodel.errors import SubmodelError
from submodel.report import table
from submodel.tasks.rows import Row, append_rows, read_rows


def row(value: float, submodel: str = "dense", **changed: Any) -> Row:
    plain: dict[str, Any] = {
        "model": "models/one",
        "submodel": submodel,
        "masks": None if submodel == "dense" else submodel * 8,
        "weights": "w1",
        "task": "perplexity",
        "data": {"name": "sets/python/test.jsonl:code", "split": "all", "sha256_tokens": "aa"},
        "metric": "perplexity",
        "value": value,
        "low": value - 1,
        "high": value + 1,
        "n": 1000,
        "settings": {"tokens": 1024, "seed": 0},
        "versions": {},
        "machine": "",
        "seconds": 1.0,
    }
    return Row(**plain | changed)


def took(submodel: str, seconds: float, resumed: int = 0, **more: str) -> list[Row]:
    common: dict[str, Any] = {
        "task": "extract",
        "data": {"name": None},
        "settings": {"resumed_blocks": resumed, **more},
    }
    return [
        row(seconds, submodel, metric="seconds", **common),
        row(500 * 2.0**20, submodel, metric="peak_bytes", **common),
    ]


def cells(text: str) -> list[list[str]]:
    return [re.split("  +", line) for line in text.splitlines()]


def test_one_model():
    rows = [row(9, "python"), row(5), row(7, "java")]
    assert cells(table(rows)) == [
        ["sub-model", "perplexity python/test.jsonl:code"],
        ["dense", "5.00 [4.00, 6.00]"],
        ["python", "9.00 [8.00, 10.00]"],
        ["java", "7.00 [6.00, 8.00]"],
        ["95% intervals in brackets; 1,000 tokens of python/test.jsonl:code"],
    ]
    assert cells(table(rows, {"sets/python/test.jsonl:code": "python"}))[0] == ["sub-model", "perplexity python"]
    assert table([]) == "no rows"


def test_notes_are_in_the_order_of_the_columns():
    rows = [row(5, data={"name": f"sets/{name}.jsonl"}, n=n) for name, n in (("z", 30), ("a", 2000), ("m", 4))]
    rows += [row(6, "zoo", notes=["y (for) z"]), row(6, "ant", notes=["b (for) c"])]
    *_, first, second = table(rows).splitlines()
    assert first == (
        "95% intervals in brackets; 30 tokens of sets/z.jsonl; 2,000 tokens of sets/a.jsonl; 4 tokens of sets/m.jsonl; "
        "1,000 tokens of python/test.jsonl:code"
    )
    assert second == "read as stand-ins, see submodel info: y (calibration of zoo), b (calibration of ant)"


def test_differences_are_of_the_same_pieces():
    """A difference of paired pieces is found where the two intervals overlap widely."""
    nats = np.random.default_rng(0).normal(2.0, 0.5, 200)
    solved = np.arange(200) % 2
    rate = {"task": "humaneval", "metric": "pass@1", "n": 200}
    rows = [
        row(7.4, "wanda", parts=nats.tolist()),
        row(7.3, "swaps", parts=(nats - 0.02).tolist()),
        row(7.5, "old"),
        row(0.5, "wanda", parts=solved.tolist(), **rate),
        row(0.5, "swaps", parts=np.roll(solved, 1).tolist(), **rate),
    ]
    found = {line[0]: line[1:] for line in cells(table(rows, against="wanda"))}
    assert found["wanda"][0] == "7.40 [6.40, 8.40]"
    assert found["swaps"][0] == "-2.0% [-2.0, -2.0]"
    assert found["old"][0] == "7.50 [6.50, 8.50]"  # a row without pieces is shown as it is
    change, low, high = re.fullmatch(r"(.*) points \[(.*), (.*)\]", found["swaps"][1]).groups()  # type: ignore[union-attr]
    assert float(change) == 0 and -16 < float(low) < -10 and 10 < float(high) < 16
    with pytest.raises(SubmodelError, match="no row of it: there are old, swaps, wanda"):
        table(rows, against="dense")


def test_what_is_won_back_of_a_loss():
    """Shares are of the same pieces, whether less is better or more, and only of what is lost beyond doubt."""
    rng = np.random.default_rng(0)
    nats = rng.normal(2.0, 0.5, 200)
    lost = rng.uniform(0.1, 0.5, 200)
    solved = np.array([1] * 100 + [0] * 100)
    parts = {
        ("perplexity", "perplexity"): (nats, nats + lost, nats + 0.4 * lost),
        ("humaneval", "pass@1"): (solved, solved * (np.arange(200) >= 40), solved * (np.arange(200) >= 30)),
        ("layer-error", "layer error"): (0 * lost, lost, 1.5 * lost),
        ("gsm8k", "accuracy"): (solved, np.roll(solved, 1), solved),
    }
    rows = [
        row(2, name, task=task, metric=metric, parts=one.tolist())
        for (task, metric), each in parts.items()
        for name, one in zip(("dense", "wanda", "swaps"), each, strict=True)
    ]
    found = {line[0]: line[1:] for line in cells(table([*rows, row(3, "old")], against="wanda", won_back=True))}
    text, problems, error, none = found["swaps"]
    assert text == "won 60.0% [60.0, 60.0]" and error == "won -50.0% [-50.0, -50.0]"
    share, low, high = re.fullmatch(r"won (.*)% \[(.*), (.*)\]", problems).groups()  # type: ignore[union-attr]
    assert float(share) == 25 and 9 < float(low) < 15 and 36 < float(high) < 42
    assert none == "200.0% [100.0, 300.0]"  # a row of which wanda may have lost nothing is shown as it is
    assert not any("won" in cell for name in ("dense", "wanda", "old") for cell in found[name])
    assert found["won: of what wanda loses against dense on the same windows, problems or matrices"] == []
    for name, given, said in (
        ("ria", rows, "'ria': no row of it: there are dense, swaps, wanda"),
        ("dense", rows, "'dense': nothing to win back"),
        ("wanda", [one for one in rows if one.submodel != "dense"], "beside it rows of dense"),
    ):
        with pytest.raises(SubmodelError, match=said):
            table(given, against=name, won_back=True)


def test_formats_are_lines_and_compared():
    """What packing costs is seen in one column, and by `against` on the same windows."""
    nats = np.random.default_rng(0).normal(2.0, 0.5, 50)
    packed: dict[str, Any] = {"settings": {**row(1).settings, "format": "int8"}}
    rows = [
        row(7.1, "python", parts=(nats + 0.01).tolist(), **packed),
        row(5),
        row(7, "python", parts=nats.tolist()),
        row(5.1, **packed),
    ]
    assert [line[0] for line in cells(table(rows))[1:5]] == ["dense", "dense, int8", "python", "python, int8"]
    assert len(cells(table(rows))[0]) == 2
    found = {line[0]: line[1] for line in cells(table(rows, against="python"))[1:5]}
    assert found["python"] == "7.00 [6.00, 8.00]" and found["python, int8"] == "+1.0% [+1.0, +1.0]"
    assert "-1.0%" in table(rows, against="python, int8")


def test_two_sub_models_of_one_name_are_told_apart():
    nats = np.random.default_rng(0).normal(2.0, 0.5, 50)
    pair = [("a" * 64, 0.0), ("b" * 64, 0.02)]
    rows = [row(7, "python", masks=masks, parts=(nats + more).tolist()) for masks, more in pair]
    with pytest.raises(SubmodelError, match=r"there are 2 of that name: give 'python \(a{8}\)' or 'python \(b{8}\)'"):
        table(rows, against="python")
    found = {line[0]: line[1:] for line in cells(table(rows, against="python (aaaaaaaa)"))}
    assert found["python (bbbbbbbb)"] == ["+2.0% [+2.0, +2.0]"]
    other = [row(9, "python", weights="w2", parts=nats.tolist())]  # of another base: no doubt which is meant
    assert "python\n" not in table([rows[0], *other], against="python")


def test_a_column_for_every_setting():
    """Rows of one model and task that differ in settings or text stand side by side; of equal ones the last counts."""
    more = row(6, settings={"tokens": 2048, "seed": 0}, data={**row(1).data, "sha256_tokens": "bb"})
    text = table([row(4), more, row(5), row(8, "python")])
    assert cells(text)[:3] == [
        [
            "sub-model",
            "perplexity python/test.jsonl:code, tokens 1024",
            "perplexity python/test.jsonl:code, tokens 2048",
        ],
        ["dense", "5.00 [4.00, 6.00]", "6.00 [5.00, 7.00]"],
        ["python", "8.00 [7.00, 9.00]", "-"],
    ]
    other = row(6, data={**row(1).data, "sha256_tokens": "bb"})
    assert "sha256_tokens aa" in table([row(4), other]) and "sha256_tokens bb" in table([row(4), other])


def test_several_models_and_stores():
    text = table([row(4), row(5, model="models/two", weights="w2")])
    assert [line for line in text.splitlines() if line.startswith("models/")] == ["models/one", "models/two"]
    twice = table([row(4, "python"), row(5, "python", masks="f" * 64)])
    assert [line[0] for line in cells(twice)[1:3]] == ["python (pythonpy)", "python (ffffffff)"]


def test_what_extractions_took():
    text = table([*took("python", 12.34), row(9, "python"), *took("java", 3, resumed=7), row(5)])
    assert cells(text)[:4] == [
        ["sub-model", "perplexity python/test.jsonl:code", "extraction", "peak memory"],
        ["dense", "5.00 [4.00, 6.00]", "-", "-"],
        ["python", "9.00 [8.00, 10.00]", "12.3 s", "500 MiB"],
        ["java", "-", ">3.0 s", "500 MiB"],
    ]
    assert "interrupted" in text.splitlines()[-1] and "interrupted" not in table(took("python", 1))
    begun = table([*took("python", 1), *took("fitted", 2, mask_of="python")]).splitlines()[-1]
    assert begun == "fitted: begun with python's mask, whose seconds are counted; its peak memory is not"


def test_markdown():
    kinds = {"q_proj": 0.01, "k|v": 0.02}
    rows = [row(5), row(0.1, "python", metric="layer error", kinds=kinds), row(9, "other", weights="w2")]
    assert table(rows, markdown=True).split("\n\n") == [
        "models/one",
        "| sub-model | perplexity python/test.jsonl:code | layer error python/test.jsonl:code |\n"
        "| --- | ---: | ---: |\n"
        "| dense | 5.00 [4.00, 6.00] | - |\n| python | - | 10.0% [-90.0, 110.0] |",
        "95% intervals in brackets; 1,000 tokens of python/test.jsonl:code",
        "| layer error python/test.jsonl:code | q_proj | k\\|v |\n| --- | ---: | ---: |\n| python | 1.0% | 2.0% |",
        "models/one",
        "| sub-model | perplexity python/test.jsonl:code |\n| --- | ---: |\n| other | 9.00 [8.00, 10.00] |",
        "95% intervals in brackets; 1,000 tokens of python/test.jsonl:code",
    ]


def test_a_row_that_a_kill_cut_short(tmp_path: Path):
    file, whole = tmp_path / "rows.jsonl", [row(1.0, "a"), row(2.0, "b")]
    append_rows(file, whole)
    file.write_bytes(file.read_bytes()[:-50])
    assert read_rows(file) == whole[:1]
    append_rows(file, whole[1:])
    assert read_rows(file) == whole


def test_where_no_rows_can_be(tmp_path: Path):
    for wrong, said in ((tmp_path, "not a file of result rows"), (tmp_path / "no" / "rows.jsonl", "no such directory")):
        with pytest.raises(SubmodelError, match=said):
            read_rows(wrong)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    with pytest.raises(SubmodelError, match="not a file of result rows"):
        read_rows(tmp_path / "binary")
    with pytest.raises(SubmodelError, match="the same command goes on"):
        append_rows(tmp_path, [])
