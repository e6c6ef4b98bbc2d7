"""Make the pictures of the toy models: 1,000 seeds of each width, both tasks; known features.

    python docs/make_toy.py FOLDER [abs|xor|interference]...

FOLDER/toy-abs, FOLDER/toy-xor and FOLDER/toy-interference keep the models; interrupted, it goes on
from there. The last is what `opponent toy-interference --out FOLDER/toy-interference` makes.
"""

import argparse
from pathlib import Path

from PIL import Image

from opponent.paper.toy.interference_results import write_interference
from opponent.paper.toy.interference_study import study_interference
from opponent.paper.toy.results import write_study
from opponent.paper.toy.study import train_study
from opponent.paper.toy.tasks import TASKS

HERE = Path(__file__).parent
WIDTH = 1200


def main() -> None:
    """Train, draw, and keep a smaller picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    every = [*TASKS, "interference"]
    parser.add_argument("which", nargs="*", default=every, help=", ".join(every))
    given = parser.parse_args()
    for task in given.which:
        out = given.folder / f"toy-{task}"
        if task == "interference":
            picture = write_interference(study_interference(out=out), out)[-1]
        else:
            picture = write_study(train_study(task, out=out), out)[-1]
        with Image.open(picture) as figure:
            figure.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
            figure.convert("RGB").save(
                HERE / picture.parent.with_suffix(".png").name, optimize=True
            )
        print(HERE / f"{out.name}.png")


if __name__ == "__main__":
    main()
