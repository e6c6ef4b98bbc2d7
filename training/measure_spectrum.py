"""Measure the magnitude spectrum and the colours of photographs, for synthesised images to keep.

    python training/measure_spectrum.py FOLDER src/opponent/synthesis/spectrum.json

Each photograph's largest central square is scaled to 256 pixels; its pixels are taken as logits.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from opponent.core.errors import Unreadable
from opponent.images.decode import Fit
from opponent.images.loader import stream
from opponent.images.sources import open_images
from opponent.storage.files import write_text
from opponent.synthesis.spectrum import measure

SIDE = 256
# Black and white have no logit: half a step of 8 bits away from them.
EDGE = 0.5 / 255


def main() -> None:
    """Measure a folder of photographs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    images = open_images(arguments.folder, size=(SIDE, SIDE))
    logits = []
    for image in stream(images, Fit(size=(SIDE, SIDE))):
        if not isinstance(image, Unreadable):
            pixels = (image / 255.0).clip(EDGE, 1 - EDGE)
            logits.append(np.log(pixels / (1 - pixels)))
    spectrum = measure(logits)
    values = {
        "source": f"{len(logits)} photographs, scaled and cropped to {SIDE} x {SIDE}, as logits",
        "frequencies": spectrum.frequencies.round(4).tolist(),
        "orientations": spectrum.orientations.round(6).tolist(),
        "log_magnitude": spectrum.log_magnitude.round(4).tolist(),
        "recolour": spectrum.recolour.round(5).tolist(),
    }
    write_text(arguments.out, json.dumps(values) + "\n")
    print(f"{arguments.out}: {values['source']}")


if __name__ == "__main__":
    main()
