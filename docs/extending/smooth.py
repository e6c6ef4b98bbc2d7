"""An objective: smooth images, and its sum with the paper's own."""

from torch import Tensor

import opponent


class Smoothness(opponent.Objective):
    """Minus the mean squared step from each pixel to its neighbours."""

    label = "smoothness"

    def values(self, views: opponent.Views) -> Tensor:
        """One value for each view, to be made large."""
        down, across = views.images.diff(dim=2), views.images.diff(dim=3)
        return -(down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3)))


smooth = opponent.DotCosine() + 1000 * Smoothness()
