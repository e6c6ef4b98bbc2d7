"""Views: boxes that wander, noise, windows, resizing without aliasing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.synthesis import seeded

from opponent import Box, Transforms
from opponent.synthesis.transforms import resize

pytestmark = pytest.mark.usefixtures("one_thread")


def views_of(
    transforms: Transforms,
    images: torch.Tensor,
    size: tuple[int, int],
    window: Box | None = None,
    seed: int = 0,
) -> torch.Tensor:
    generator = seeded(seed)
    height, width = images.shape[2:]
    seen, boxes = transforms.draw((height, width), size, generator, window)
    return transforms(images[:, :, *seen.slices], boxes, size, generator, window)


@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(deadline=None)
def test_boxes_are_shares_of_the_image_within_it(seed: int, size: tuple[int, int]) -> None:
    box = Transforms()._box(size, seeded(seed))
    for start, side, length in zip((box.top, box.left), (box.height, box.width), size, strict=True):
        assert 0.9 - 0.5 / length <= side / length <= 0.99 + 0.5 / length
        assert 0 <= start <= length - side


def test_boxes_wander() -> None:
    canvas = (1000, 1000)
    generator, transforms = seeded(), Transforms(smallest=0.5, largest=0.5)
    for side in ("top", "left"):  # the middle box starts at 250
        starts = [getattr(transforms._box(canvas, generator), side) for _ in range(300)]
        assert np.mean(starts) == pytest.approx(250, abs=10)
        assert np.std(starts) == pytest.approx(50, rel=0.15)
    shares = [Transforms()._box(canvas, generator).width / 1000 for _ in range(300)]
    assert min(shares) < 0.91
    assert max(shares) > 0.98
    assert np.mean(shares) == pytest.approx(0.945, abs=0.01)


def test_a_share_that_is_none_is_refused() -> None:
    for shares in ((0.9, 1.1), (0.0, 0.5), (0.8, 0.7)):
        with pytest.raises(ValueError, match="give shares between 0 and 1, the smallest first"):
            Transforms(smallest=shares[0], largest=shares[1])


def test_noise_is_uniform_and_gaussian() -> None:
    images = torch.rand(1, 3, 100, 120, generator=seeded())
    whole = {"smallest": 1.0, "largest": 1.0, "draws": 1}
    for uniform, gaussian in ((0.3, 0.0), (0.0, 0.1), (0.05, 0.05)):
        transforms = Transforms(**whole, uniform=uniform, gaussian=gaussian)
        noise = views_of(transforms, images, (100, 120)) - images
        assert noise.mean() == pytest.approx(0, abs=0.005)
        assert noise.std() == pytest.approx(math.hypot(uniform / 3**0.5, gaussian), rel=0.02)
        if not gaussian:
            assert noise.abs().max() <= uniform + 1e-6


@pytest.mark.parametrize("size", [(20, 31), (50, 40)])
def test_views_of_an_image_depend_on_no_other(size: tuple[int, int]) -> None:
    images = torch.rand(3, 3, 33, 40, generator=seeded(5))
    transforms = Transforms(draws=4)
    views = views_of(transforms, images, size)
    assert views.shape == (12, 3, *size)
    for number in range(3):
        alone = views_of(transforms, images[number : number + 1], size)
        # One draw after the other, each of all images.
        torch.testing.assert_close(views[number::3], alone)
    assert not torch.equal(views[:3], views[3:6])
    assert torch.equal(views, views_of(transforms, images, size))


def test_resizing_does_not_alias() -> None:
    stripes = torch.zeros(1, 3, 60, 60)
    stripes[..., ::2] = 1
    small = resize(stripes, (20, 20))
    torch.testing.assert_close(small[..., 2:-2], torch.full((1, 3, 20, 16), 0.5), atol=0.1, rtol=0)
    ramp = torch.arange(60.0)[:, None].expand(1, 3, 60, 60)
    middle = resize(ramp, (20, 30))[0, 0, 5:15, 7]
    torch.testing.assert_close(middle, torch.arange(5.0, 15) * 3 + 1)


def test_the_window_of_a_view_is_what_the_whole_view_has() -> None:
    images = torch.rand(2, 3, 50, 61, generator=seeded())
    window = Box(top=7, left=0, height=9, width=23)
    quiet = Transforms(draws=3, uniform=0.0, gaussian=0.0)
    whole = views_of(quiet, images, (40, 30), seed=1)
    part = views_of(quiet, images, (40, 30), window, seed=1)
    torch.testing.assert_close(part, whole[:, :, *window.slices])
    torch.testing.assert_close(
        resize(images, (70, 90), window), resize(images, (70, 90))[:, :, *window.slices]
    )


def test_no_more_is_seen_than_the_boxes_show() -> None:
    transforms, window = Transforms(draws=3), Box(top=12, left=20, height=5, width=6)
    seen, boxes = transforms.draw((100, 130), (40, 52), seeded(), window)
    again, whole = transforms.draw((100, 130), (40, 52), seeded())
    assert [x.numbers[2:] for x in boxes] == [x.numbers[2:] for x in whole]
    for a, b in zip(boxes, whole, strict=True):
        assert (a.top + seen.top, a.left + seen.left) == (b.top + again.top, b.left + again.left)
    # 2.25 to 2.5 pixels of the canvas for one of a view, and a centre that wanders.
    assert 5 * 2.25 < seen.height < 5 * 2.5 + 2 * 2.5 + 40
    assert 6 * 2.25 < seen.width < 6 * 2.5 + 2 * 2.5 + 52
    assert seen.height * seen.width < again.height * again.width / 4
    images = torch.rand(1, 3, 100, 130, generator=seeded()).requires_grad_()
    views_of(transforms, images, (40, 52), window).sum().backward()
    assert images.grad is not None
    acted = images.grad[0, 0] != 0
    assert acted[seen.slices].any(1)[[0, -1]].all()
    assert acted[seen.slices].any(0)[[0, -1]].all()
    assert acted.sum() == acted[seen.slices].sum()


@given(
    box=st.tuples(*[st.integers(1, 30)] * 2),
    # PyTorch's own filter does not resize rows where the result has one column.
    size=st.tuples(st.integers(1, 40), st.integers(2, 40)),
    data=st.data(),
)
@settings(deadline=None)
def test_a_window_of_a_box_is_what_the_whole_box_has(
    box: tuple[int, int], size: tuple[int, int], data: st.DataObject
) -> None:
    images = torch.rand(1, 3, 33, 35, generator=seeded())
    starts = [data.draw(st.integers(0, side - 1)) for side in size]
    sides = [data.draw(st.integers(1, n - at)) for n, at in zip(size, starts, strict=True)]
    inner, window = Box.of([3, 2, *box]), Box.of([*starts, *sides])
    whole = resize(images, size, box=inner)
    torch.testing.assert_close(
        resize(images, size, window, inner), whole[:, :, *window.slices], atol=2e-6, rtol=0
    )
