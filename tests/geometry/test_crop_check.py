"""What counts as rounding."""

import pytest
import torch
from torch import Tensor

from opponent.geometry.crop_check import equal_to_rounding


def slowly_equal(values: Tensor, expected: Tensor, scale: list[float] | None) -> bool:
    """Value by value, from the definition."""
    limit = {torch.float64: 1e-9, torch.float32: 1e-4}.get(values.dtype, 0.05)
    sizes = scale or [
        max((abs(x) for x in image.flatten().tolist()), default=0.0) for image in expected
    ]
    for number, (ours, theirs) in enumerate(zip(values, expected, strict=True)):
        size = max(sizes[number], 1e-3 * max(sizes))
        for a, b in zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True):
            if not abs(a - b) <= limit * size:
                return False
    return True


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("error", [0.0, 1e-12, 1e-8, 1e-6, 1e-3, 0.2])
def test_rounding_is_a_share_of_each_images_largest_value(dtype: torch.dtype, error: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 4, 2, 2), (4,), (1, 5)):
        expected = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        expected[0] *= 1e-2
        values = (expected.double() + error * torch.randn(shape, generator=generator)).to(dtype)
        scale = torch.rand(shape[0], generator=generator, dtype=torch.float64)
        for size in (None, scale):
            given = None if size is None else size.tolist()
            assert equal_to_rounding(values, expected, size) == slowly_equal(
                values, expected, given
            )


def test_what_is_no_number_or_of_another_shape_is_no_rounding() -> None:
    ones = torch.ones(2, 3)
    assert equal_to_rounding(ones, ones)
    for odd in (torch.nan, torch.inf):
        values = ones.clone()
        values[1, 2] = odd
        assert not equal_to_rounding(values, ones)
        assert not equal_to_rounding(ones, values)
        assert not equal_to_rounding(values, values)
    assert not equal_to_rounding(ones, ones[:, :2])
    assert equal_to_rounding(ones[:0], ones[:0])
    assert not equal_to_rounding(torch.ones(2), torch.tensor([1.0, 0.0]))
    assert equal_to_rounding(torch.zeros(2, 3), torch.zeros(2, 3))
