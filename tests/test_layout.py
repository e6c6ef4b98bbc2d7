"""The house: which module may import which."""

import ast
from pathlib import Path

import opponent

PACKAGE = Path(opponent.__file__).parent
# Each line may import itself and what stands above it.
ORDER = [
    {"files", "features", "network", "images", "colour"},
    {"zoo"},
    {"window", "graph"},
    {"view", "attribution", "tension", "jacobian"},
    {"units"},
    {"run", "scan", "parts", "figures", "cluster"},
    {"synthesis", "tiles"},
    {"directions", "atlas", "completeness", "superposition", "weights", "verify"},
    {"gallery"},
    {"why", "who"},
    {"pages"},
    {"demo", "reproduce", "experiment"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("opponent.")}
    return found


def test_imports_go_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert name in LEVEL, f"{name} has no place in the order of imports"
        wrong += [
            f"{path.relative_to(PACKAGE)} imports {other}"
            for other in _imports(path)
            if LEVEL[other] > LEVEL[name]
        ]
    assert not wrong


def test_only_the_network_has_hooks() -> None:
    with_hooks = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if "register_forward" in path.read_text(encoding="utf-8")
    }
    assert with_hooks == {"network.py"}


def test_nothing_is_unpickled() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("torch.load(") == text.count("weights_only=True)"), path
        assert "pickle.load" not in text, path
