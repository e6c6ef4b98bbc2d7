"""A tiny study without a network, for the tests of everything that reads one."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from opponent.study.study import FORMAT, Study, Trial, write_study

LAYERS = ("conv2d0", "mixed4a", "mixed5a")


def small_study(
    folder: Path,
    *,
    features: int = 2,
    layers: tuple[str, ...] = LAYERS,
    catch: int = 1,
    practice: int = 1,
    side: int = 12,
    seed: int = 0,
    **settings: Any,
) -> Study:
    """A valid study of pictures of plain colour with noise.

    In each trial examples and MEI have one colour, the MII its complement, distractors others.

    Args:
        folder: where it is written.
        features: trials a layer.
        layers: their names.
        catch: catch trials a layer.
        practice: trials to practise with.
        side: of a picture, in pixels.
        seed: of pictures, and of the order shown.
        settings: what study.json is to have instead.
    """
    rng = np.random.default_rng(seed)
    (folder / "stimuli").mkdir(parents=True)

    def stimulus(colour: np.ndarray) -> str:
        noise = rng.integers(-20, 21, (side, side, 3))
        pixels = np.clip(colour + noise, 0, 255).astype(np.uint8)
        id = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
        Image.fromarray(pixels).save(folder / "stimuli" / f"{id}.png")
        return id

    def trial(kind: str, layer: str, number: int) -> Trial:
        colour = rng.integers(0, 256, 3)
        mei, mii = stimulus(colour), stimulus(255 - colour)
        examples = [stimulus(colour) for _ in range(6)]
        if kind == "catch":
            examples[0] = mei
        others = [stimulus(rng.integers(0, 256, 3)) for _ in range(7)]
        name = f"{seed} {kind} {layer} {number}"
        return Trial(
            id=hashlib.sha256(name.encode()).hexdigest()[:12],
            kind=kind,
            layer=layer,
            feature=f"{layer}:kmeans{number}",
            examples=tuple(examples),
            choices=(mei, mii, *others),
            mei=mei,
            mii=mii,
        )

    trials = [trial("practice", layers[0], 100 + i) for i in range(practice)]
    for layer in layers:
        trials += [trial("catch", layer, 200 + i) for i in range(catch)]
        trials += [trial("trial", layer, i) for i in range(features)]
    names = ("early", "middle", "late")
    labels = names if len(layers) == len(names) else [f"layer {i + 1}" for i in range(len(layers))]
    values: dict[str, Any] = {
        "format": FORMAT,
        "title": "What makes it go quiet?",
        "seed": seed,
        "layers": [{"name": x, "label": y} for x, y in zip(layers, labels, strict=True)],
        "runs": [],
        "numbers": {
            "features": features, "examples": 6, "distractors": 7, "catch": catch,
            "practice": practice,
        },
        "consent": {"version": "1", "text": "I am 18 or older, and I take part of my own will."},
        "debriefing": "Thank you. The pictures came from a vision network.",
        "codes": {"complete": "C0MPLETE", "screened_out": "SCREENED", "no_consent": "NOCONSENT"},
        "completion_url": "https://app.prolific.com/submissions/complete?cc={code}",
        "breaks": True,
        "min_window": [1024, 640],
        "analysis": {},
    }  # fmt: skip
    write_study(folder, values | settings, trials)
    return Study(folder)
