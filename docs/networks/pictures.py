"""Four photographs of scikit-image as files, of which `crops:15:photographs` makes sixty."""

from pathlib import Path

from PIL import Image
from skimage import data

folder = Path("photographs")
folder.mkdir(exist_ok=True)
for name in ("astronaut", "chelsea", "coffee", "rocket"):
    Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
