"""Make the pictures of the toy models: 1,000 seeds of each width, both tasks.

    python docs/make_toy.py FOLDER

FOLDER/toy-abs and FOLDER/toy-xor keep the models; interrupted, it goes on from there.
"""

import argparse
from pathlib import Path

from PIL import Image

from opponent.paper.toy.results import write_study
from opponent.paper.toy.study import train_study
from opponent.paper.toy.tasks import TASKS

HERE = Path(__file__).parent
WIDTH = 1200


def main() -> None:
    """Train, draw, and keep a smaller picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for task in TASKS:
        out = parser.parse_args().folder / f"toy-{task}"
        study = train_study(task, out=out)
        picture = write_study(study, out)[-1]
        with Image.open(picture) as figure:
            figure.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
            figure.convert("RGB").save(
                HERE / picture.parent.with_suffix(".png").name, optimize=True
            )
        print(HERE / f"{out.name}.png")


if __name__ == "__main__":
    main()
