"""Which boxes of the layers on the way can be cropped, worked by hand."""

import numpy as np
import torch
from torch import nn

from opponent import Network, Preprocessing
from opponent.core.box import Box
from opponent.geometry.planning import plan_crop


def test_rows_and_columns_are_not_mixed_up() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 2))
        module = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    network = Network(module, preprocessing=Preprocessing(size=(40, 60)))
    feature = network.resolve("2:1@12,50")
    plan = plan_crop(network, [feature], "1")
    assert plan.box is not None
    # Rows 11 to 13 of the first layer, 2 steps a row, 3 high: pixels 21 to 27, from an even row.
    assert (plan.box.top, plan.box.top + plan.box.height) == (20, 28)
    # Columns 49 to 51, one step a column, 5 wide: pixels 47 to 53.
    assert (plan.box.left, plan.box.left + plan.box.width) == (47, 54)
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 40, 60)))
    torch.testing.assert_close(
        plan.feature.read(plan.run(network, inputs).target),
        feature.read(network.run(inputs, "2").target),
    )


def test_only_what_is_needed_of_each_layer_goes_on() -> None:
    """Two convolutions of 3 x 3 and a pool by 2: worked by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1),
        )  # fmt: skip
    network = Network(module, preprocessing=Preprocessing(size=(32, 40)))
    feature = network.resolve("5:1@8,10")
    plan = plan_crop(network, [feature], "4")
    # 5 at (8, 10) needs rows 7 to 9 of 4, 6 to 10 of 2, 12 to 21 of 1, 11 to 22 of the pixels, from
    # an even row to an even one: 10 to 23. Columns are the same, two farther on: twice that.
    assert plan.box == Box(top=10, left=14, height=14, width=14)
    assert plan.crops == {
        "1": Box(top=2, left=2, height=10, width=10),
        "4": Box(top=1, left=1, height=3, width=3),
    }
    assert plan.window == Box(top=7, left=9, height=3, width=3)
    assert plan.inner == Box(top=0, left=0, height=3, width=3)
    assert plan.feature == feature.at((1, 1))
    # From the through layer on nothing is needed but the window; from 1 on, rows 12 to 21.
    for through, box in (
        ("4", Box(top=7, left=9, height=3, width=3)),
        ("1", Box(top=12, left=16, height=10, width=10)),
    ):
        plan = plan_crop(network, [feature], through, start=through)
        assert plan.box == plan.window == box
        assert plan.inner == Box(top=0, left=0, height=box.height, width=box.width)
        assert plan.crops == {}
        # The pool between 1 and 5 halves rows and columns.
        step = 1 if through == "4" else 2
        assert plan.feature == feature.at((8 - box.top // step, 10 - box.left // step))
