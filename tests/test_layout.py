"""The house: which room may import which."""

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import opponent

PACKAGE = Path(opponent.__file__).parent
# Each room may import itself and what stands before it.
ORDER = [
    "core", "images", "models", "geometry", "storage", "dictionaries", "attribution", "selection",
    "scan", "directions", "synthesis", "atlas", "explain", "plots", "reports", "paper", "study",
    "cli", "__main__", "__init__",
]  # fmt: skip
LEVEL = {name: level for level, name in enumerate(ORDER)}


def _imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("opponent.")}
    return rooms


def test_imports_go_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert room in LEVEL, f"{room} has no place in the order of imports"
        wrong += [
            f"{path.relative_to(PACKAGE)} imports {other}"
            for other in _imports(path)
            if LEVEL[other] > LEVEL[room]
        ]
    assert not wrong


def test_no_name_hides_a_module() -> None:
    for module in pkgutil.walk_packages(opponent.__path__, "opponent."):
        if module.name != "opponent.__main__":
            importlib.import_module(module.name)
            package, _, name = module.name.rpartition(".")
            assert isinstance(getattr(importlib.import_module(package), name), ModuleType)


def test_only_the_forward_pass_has_hooks() -> None:
    with_hooks = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if "register_forward" in path.read_text(encoding="utf-8")
    }
    assert with_hooks == {"forward.py"}


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        reads = text.count("torch.load(") + text.count(".get_state_dict(")
        assert reads == text.count("weights_only=True)"), path
        assert "pickle.load" not in text, path
