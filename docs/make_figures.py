"""Make the pictures of the README, from the demo's run.

make figures
"""

import shutil
from pathlib import Path

from opponent.demo import run_demo
from opponent.gallery import write_figures
from opponent.run import Run

HERE = Path(__file__).parent


def main() -> None:
    """Run the demo where it has not been run, and draw its figures."""
    folder = HERE.parent / "demo"
    run_demo(folder, lambda *_: None)
    run = Run(folder)
    made = write_figures(
        run, folder / "figures", features=run.features, k=3, network=run.load_network()
    )
    names = {path.name.split("-mixed")[0]: path for path in made}
    for name in ("figure4a", "figure4b-g", "figure5"):
        shutil.copyfile(names[name], HERE / f"{name}.png")
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
