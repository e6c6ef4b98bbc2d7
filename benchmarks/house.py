"""How many rooms the package has, how many import from which, and on how many floors they stand.

    python -m benchmarks.house [FOLDER]

A room is a folder or a file at the top of the package. An arrow leads from a room to another whose
names it imports. A room's floor is one above the highest of those that it imports.
"""

import argparse
import ast
from functools import cache
from pathlib import Path


def imports(package: Path) -> dict[str, set[str]]:
    """The rooms that each room imports."""
    rooms: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        others = rooms.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            others |= {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
    # What is imported from the package itself is no room.
    return {
        room: {other for other in others if other in rooms} - {room}
        for room, others in rooms.items()
    }


def floors(rooms: dict[str, set[str]]) -> dict[str, int]:
    """Each room's floor; those that import nothing stand on the first."""

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in rooms[room]), default=0)

    return {room: floor(room) for room in rooms}


def main() -> None:
    """Print the rooms, floor by floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("src/opponent"))
    rooms = imports(parser.parse_args().folder)
    standing = floors(rooms)
    arrows = sum(map(len, rooms.values()))
    print(f"{len(rooms)} rooms, {arrows} arrows, {max(standing.values())} floors")
    for floor in range(1, max(standing.values()) + 1):
        print(f"{floor:>3}  {', '.join(sorted(x for x, at in standing.items() if at == floor))}")


if __name__ == "__main__":
    main()
