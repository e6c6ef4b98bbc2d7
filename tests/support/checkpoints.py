"""Where an interrupted experiment keeps what it has finished."""

from pathlib import Path

# The folder's name, as `opponent.storage.checkpoints` gives it.
CHECKPOINTS = "checkpoints"


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints in a folder and in the folders within it, in order."""
    return sorted(path for path in folder.rglob("*") if path.parent.name == CHECKPOINTS)
