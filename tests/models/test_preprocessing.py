"""How a photograph becomes a network's input."""

import numpy as np
import pytest
import torch

from opponent import Preprocessing
from opponent.images.fit import Fit
from opponent.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD


def test_preprocessing_pixel_by_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    prepared = Preprocessing().from_pixels(pixels)
    assert (prepared.shape, prepared.dtype) == ((2, 3, 3, 4), torch.float32)
    for n, row, column, channel in np.ndindex(*pixels.shape):
        expected = (pixels[n, row, column, channel] / 255 - IMAGENET_MEAN[channel]) / (
            IMAGENET_STD[channel]
        )
        assert prepared[n, channel, row, column].item() == pytest.approx(expected, abs=1e-6)
    grey = Preprocessing(mean=(117 / 255,) * 3, std=(1 / 255,) * 3).from_pixels(pixels)
    expected = torch.tensor(pixels).permute(0, 3, 1, 2) - 117.0
    torch.testing.assert_close(grey, expected, atol=1e-4, rtol=0)


def test_preprocessing_takes_arrays_of_any_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    prepared = Preprocessing().from_pixels(pixels)
    fixed = pixels.copy()
    fixed.flags.writeable = False
    assert torch.equal(Preprocessing().from_pixels(fixed), prepared)
    turned = Preprocessing().from_pixels(pixels[:, ::-1, :, ::-1])
    assert turned.shape == prepared.shape
    backwards = np.ascontiguousarray(pixels[:, ::-1, :, ::-1])
    assert torch.equal(turned, Preprocessing().from_pixels(backwards))


def test_photographs_are_decoded_to_the_inputs_size() -> None:
    assert Preprocessing().fit == Fit(size=(224, 224))
    given = Preprocessing(size=(5, 9), resize=12, draft=True, mean=(0.0,) * 3)
    assert given.fit == Fit(size=(5, 9), resize=12, draft=True)
