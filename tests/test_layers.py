"""Imports inside the package run down the layers only; docs/reference/architecture.md draws them."""

import ast
from pathlib import Path

import submodel

ROOT = Path(submodel.__file__).parent
# a module may import from earlier lines, and from its own package
LAYERS = [
    ["errors", "lazy"],
    ["base"],
    ["calibration"],
    ["walk"],
    ["prune"],
    ["store"],
    ["runtime"],
    ["router"],
    ["export", "tasks"],
    ["extract", "report"],
    ["study", "bench", "serve"],
    ["api"],
    ["cli"],
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(file: Path) -> list[tuple[str, bool]]:
    """(imported in-package module, whether inside a function)."""
    tree = ast.parse(file.read_text())
    top = set(ast.walk(ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)], [])))
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "submodel":
            modules = [f"submodel.{a.name}" for a in node.names] if node.module == "submodel" else [node.module]
            found += [(module, node not in top) for module in modules]
    return found


def test_imports_run_down():
    for file in ROOT.rglob("*.py"):
        relative = file.relative_to(ROOT).with_suffix("")
        room = relative.parts[0]
        if room == "__init__":
            continue
        assert room in RANK, f"{file}: in no layer: name its room in LAYERS and in docs/reference/architecture.md"
        for module, inside in _imports(file):
            other = _room(module)
            assert room == other or RANK[other] < RANK[room], f"{file} imports {module}: that runs up"
            # a module that needs an extra is imported by its neighbour when it is used
            assert not inside or room in ("api", "cli", other), f"{file} imports {module} inside a function"


def test_every_room_is_drawn():
    drawn = Path(__file__).parent.parent.joinpath("docs/reference/architecture.md").read_text()
    for room in RANK:
        assert f"{room}.py" in drawn or f"{room}/" in drawn, f"docs/reference/architecture.md does not show {room}"
