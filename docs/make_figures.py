"""Make the pictures of the README, from the demo's run.

make figures
"""

from pathlib import Path

from PIL import Image

from opponent.plots.files import write_figures
from opponent.reports.demo import run_demo
from opponent.scan.reopen import network_of
from opponent.storage.run import Run

HERE = Path(__file__).parent
# Pixels: sharp where pages show it, and small enough to keep in a repository.
WIDTH = 1200


def main() -> None:
    """Run the demo where it has not been run, and draw its figures."""
    folder = HERE.parent / "demo"
    run_demo(folder)
    run = Run(folder)
    paths = write_figures(run, folder / "figures", k=3, network=network_of(run))
    names = {path.name.split("-mixed")[0]: path for path in paths}
    for name in ("figure4a", "figure4b-g", "figure5"):
        with Image.open(names[name]) as figure:
            figure.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
            figure.convert("RGB").save(HERE / f"{name}.png", optimize=True)
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
