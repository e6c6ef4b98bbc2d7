"""Synthesised images, and the feature's activation while they were optimised."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from opponent.core.feature import Feature
from opponent.core.pictures import contact_sheet, png_bytes, trimmed
from opponent.core.side import Side
from opponent.storage.files import atomic_write


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Synthesis:
    """n images optimised for a feature, and its activation on the way.

    Args:
        feature: the feature, with its position written out.
        side: the side of the attribution that the images show.
        image: the images, in [0, 1].
        opacity: the absolute pixel gradient, summed over all steps, scaled to [0, 1].
        objective: the objective at each step, the mean over its views.
        activation: the feature's activation, before the ReLU, at each step, the mean over its
            views; no steps where it was not recorded.
        final: the feature's activation in the finished images.
        images: ids of the photographs that the images explain; None where there are none.

    >>> import pathlib, tempfile, opponent
    >>> synthesis = opponent.visualise(
    ...     "inceptionv1-small", "mixed3b:189", settings=opponent.SynthesisSettings(steps=2))
    >>> synthesis.image.shape, synthesis.activation.shape
    (torch.Size([1, 3, 256, 256]), torch.Size([2, 1]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in synthesis.save(pathlib.Path(folder, "189.png"))]
    ['189.png']
    """

    feature: Feature
    side: Side
    image: Float[Tensor, "n 3 h w"]
    opacity: Float[Tensor, "n h w"]
    objective: Float[Tensor, "steps n"]
    activation: Float[Tensor, "watched n"]
    final: Float[Tensor, " n"]
    images: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def __repr__(self) -> str:
        count, (height, width) = len(self), self.image.shape[2:]
        return (
            f"Synthesis({self.feature.label!r}, {self.side}: "
            f"{count:,} image{'' if count == 1 else 's'} of {height} x {width})"
        )

    def rgba(self) -> UInt8[np.ndarray, "n h w 4"]:
        """The images as bytes, with their opacity as alpha channel."""
        both = torch.cat([self.image, self.opacity[:, None]], 1)
        return (both * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def save(self, path: str | Path) -> list[Path]:
        """Write the images as PNG files, with their opacity as alpha channel.

        Args:
            path: the file, ending .png. Several images get their number before the suffix.
        Returns:
            The paths of the files.
        Raises:
            ValueError: the suffix is not .png.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path}: images with opacity are saved as .png")
        names = [path.name]
        if len(self) > 1:
            names = [f"{path.stem}-{number}{path.suffix}" for number in range(len(self))]
        paths = [path.with_name(name) for name in names]
        for file, pixels in zip(paths, self.rgba(), strict=True):
            with atomic_write(file) as temporary:
                Image.fromarray(pixels).save(temporary)
        return paths

    def _repr_html_(self) -> str:
        from opponent.core import notebook

        pixels = trimmed(self.rgba()[: notebook.PICTURES])
        ids = [""] * len(self) if self.images is None else [f"{image}: " for image in self.images]
        final = self.final.tolist()
        shown = [
            (each, f"{id}activation {activation:+.4g}")
            for each, id, activation in zip(pixels, ids, final, strict=False)
        ]
        return notebook.section(repr(self), notebook.pictures(shown, total=len(self)))

    def _repr_png_(self) -> bytes:
        return png_bytes(contact_sheet(list(trimmed(self.rgba()))))
