"""Shared by all tests. Run them with `make test`, or one file with `pytest tests/test_masks.py`."""

import os
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # side by side: each has its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from submodel.base import native
from submodel.prune.scores import SCORES
from submodel.router import profile
from tests import tiny


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaMA with a byte tokenizer, as a Hugging Face directory."""
    return tiny.save("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two JSONL files of different text."""
    folder = tmp_path_factory.mktemp("texts")
    return {name: tiny.write_jsonl(folder / f"{name}.jsonl", name) for name in ("python", "prose")}


@pytest.fixture(autouse=True, scope="session")
def few_routing_texts() -> Iterator[None]:
    """What an extraction keeps for routing is made of fewer texts: most tests do not look at it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PIECES", "REQUESTS", "STUBS"):
            patch.setattr(profile, name, 24)
        made = {kind: texts[:12] for kind, texts in profile.background.texts().items()}
        patch.setattr(profile.background, "texts", lambda: made)
        yield


@pytest.fixture
def real_model() -> Path:
    """The 135M model of the demo, or a skip."""
    given = os.environ.get("SUBMODEL_TEST_MODEL", "demo/model/smollm2-135m.gguf")
    if not Path(given).exists():
        pytest.skip(f"no real model at {given}: run `make demo`, or name one in SUBMODEL_TEST_MODEL")
    return Path(given)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data sets in their hub columns, or a skip."""
    given = Path(os.environ.get("SUBMODEL_TEST_DATA", "../shared/data"))
    if not given.is_dir():
        pytest.skip(f"no data sets at {given}: name their directory in SUBMODEL_TEST_DATA")
    return given


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to serve, only read."""
    if not native.LIBRARY.is_file():
        pytest.skip("no native kernels: run python csrc/build.py")
    from tests import serving  # a server's libraries, only where one is tested

    return serving.make_store(tmp_path_factory.mktemp("serve"))


@pytest.fixture(params=native.SETS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The kernels of one instruction set, or a skip."""
    name: str = request.param
    opened: Any = None
    if name != "torch":
        if not native.LIBRARY.is_file():
            pytest.skip("no native kernels: run python csrc/build.py")
        # chosen when a library is loaded, and one path is loaded once
        copy = shutil.copy(native.LIBRARY, tmp_path / f"{name}.so")
        monkeypatch.setenv("SUBMODEL_KERNELS", name)
        opened = native.open_library(Path(copy))
        if opened.sm_kernels().decode() != name:
            pytest.skip(f"this processor has no {name}")
    monkeypatch.setattr(native, "library", lambda: opened)
    return name


@pytest.fixture
def set_openings(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Give every score so many one-token samples beside the text."""

    def to(count: int) -> None:
        for name, score in SCORES.items():
            monkeypatch.setitem(SCORES, name, replace(score, openings=count))

    return to
