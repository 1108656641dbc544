"""Who may import whom (the rooms' arrows), read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "acne_lab"
FILES = sorted(PACKAGE.rglob("*.py"))

# Of our own rooms, each may import these besides itself.
ALLOWED = {
    "ops": set(),
    "metrics": {"colour"},
    "data": {"colour"},
    "gan": {"ops", "data", "metrics"},
    "edit": {"colour", "data", "metrics"},
    "grade": {"data", "metrics"},
    "report": {"data", "metrics"},
}
ROOT_FILES = {
    "colour.py": set(),
    "processes.py": set(),
    "runs.py": {"processes"},
    "build.py": {"runs"},
    "tracking.py": {"runs"},
    "callbacks.py": {"metrics"},
    "cli.py": set(),
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            names.add(node.module)
    return names


def our_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("acne_lab.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    room = path.relative_to(PACKAGE).parts[0]
    if room in ALLOWED:
        assert our_rooms(path) <= ALLOWED[room] | {room}
    elif room in ROOT_FILES:
        assert our_rooms(path) <= ROOT_FILES[room]
    libraries = {name.split(".")[0] for name in imports(path)}
    if "pytorch_lightning" in libraries and room not in ("jobs", "callbacks.py", "processes.py", "tracking.py"):
        assert path.name == "module.py"
    if libraries & {"hydra", "omegaconf"}:
        assert room in ("jobs", "build.py")
    if "wandb" in libraries:
        assert room in ("callbacks.py", "tracking.py")


def test_instantiate_has_one_caller():
    callers = [p.relative_to(PACKAGE).as_posix() for p in FILES if "instantiate(" in p.read_text()]
    assert callers == ["build.py"]


def test_no_utils():
    assert not [p for p in FILES if p.stem in ("utils", "helpers", "misc", "common")]
