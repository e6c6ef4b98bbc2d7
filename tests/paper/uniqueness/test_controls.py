"""The controls: what is permuted and drawn, and what is measured of them, number by number."""

import numpy as np
import pytest
import torch
from torch import Tensor

from opponent import Dictionary, Feature, Network
from opponent.paper.layer_pairs import LayerPair
from opponent.paper.uniqueness.batch import LayerPlan, measure_batch, plan_crops
from opponent.paper.uniqueness.controls import (
    CONTROLS,
    SIZES,
    Codes,
    Controls,
    channel_sizes,
    parallel,
)
from opponent.paper.uniqueness.measure import choose_layers

pytestmark = pytest.mark.usefixtures("one_thread")

DRAWS = 2


def plan_for(network: Network, units: int = 3) -> tuple[LayerPair, LayerPlan]:
    [pair] = choose_layers(network, ["third"])
    features = {pair: [Feature(layer="third", unit=unit) for unit in (0, 1, 4)[:units]]}
    crop = plan_crops(network, features)[pair]
    channels = network.map_shape(pair.through)[0]
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(9, channels, generator=generator)
    bias = torch.randn(channels, generator=generator)
    topk = Dictionary(
        decoder=rows, encoder=rows, bias=bias, encoder_bias=torch.zeros(9), kind="topk",
        active=2, layer=pair.through,
    )  # fmt: skip
    linear = Dictionary(
        decoder=rows, encoder=rows, bias=bias, encoder_bias=torch.zeros(9), kind="linear",
        layer=pair.through,
    )  # fmt: skip
    controls = Controls.of(network, crop, DRAWS, seed=3)
    dictionaries = {"topk": topk, "linear": linear}
    return pair, LayerPlan(
        crop=crop, controls=controls, kinds={"all": slice(None)}, dictionaries=dictionaries
    )


def inputs_for(network: Network) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, *network.preprocessing.size, generator=generator)


def test_controls_keep_what_they_are_to_keep(small: Network) -> None:
    _, plan = plan_for(small)
    gradient = torch.randn(
        5, *plan.controls.directions.shape[2:], generator=torch.Generator().manual_seed(0)
    )
    sets = plan.controls.gradients(1, gradient)
    assert sets.shape[1] == 1 + len(CONTROLS) * DRAWS
    assert (sets[:, 0] == gradient).all()
    lengths = gradient.norm(dim=1)
    for s in range(1, sets.shape[1]):
        torch.testing.assert_close(sets[:, s].norm(dim=1), lengths)
    for draw in range(DRAWS):
        order = plan.controls.permutations[1, draw]
        for image in range(5):  # One order in all images and positions, of the same values.
            for channel, other in enumerate(order.tolist()):
                assert (sets[image, 1 + draw, channel] == gradient[image, other]).all()
        random = sets[:, 1 + DRAWS + draw] / lengths[:, None]
        torch.testing.assert_close(random, random[:1].expand_as(random))
    assert not torch.equal(sets[:, 1], sets[:, 2])
    assert not torch.equal(sets[:, 3], sets[:, 4])


def test_controls_depend_on_layer_number_and_seed(small: Network) -> None:
    _, plan = plan_for(small)
    _, fewer = plan_for(small, units=2)
    assert (fewer.controls.permutations == plan.controls.permutations[:2]).all()
    assert (fewer.controls.directions == plan.controls.directions[:2]).all()
    other = Controls.of(small, plan.crop, DRAWS, seed=4)
    assert (other.permutations != plan.controls.permutations).any()


def by_hand(gradient: np.ndarray, hidden: np.ndarray, dictionary: Dictionary | None) -> list[float]:
    """Sizes of one image and gradient, term by term."""
    channels, height, width = hidden.shape
    terms, rest = [], 0.0
    for y in range(height):
        for x in range(width):
            g, h = gradient[:, y, x], hidden[:, y, x]
            if dictionary is None:
                terms += [g[k] * h[k] for k in range(channels)]
                continue
            rows, bias = dictionary.decoder.double().numpy(), dictionary.bias.double().numpy()
            heard = [float((h - bias) @ row) for row in rows]
            if dictionary.kind == "topk":
                best = sorted(range(len(heard)), key=lambda i: -heard[i])[: dictionary.active]
                heard = [max(v, 0) if i in best else 0.0 for i, v in enumerate(heard)]
            terms += [float(g @ row) * z for row, z in zip(rows, heard, strict=True)]
            left = h - bias - sum(z * row for row, z in zip(rows, heard, strict=True))
            rest += sum(abs(g[k] * left[k]) for k in range(channels))
    above, below = sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0)
    sizes = [above + below, sum(t * t for t in terms) ** 0.5, min(above, below), rest]
    return sizes[:3] if dictionary is None else sizes


def test_sizes_are_those_of_each_term(small: Network) -> None:
    _, plan = plan_for(small)
    shape = plan.controls.directions.shape[2:]
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(3, *shape, generator=generator)
    gradients = plan.controls.gradients(2, torch.randn(3, *shape, generator=generator))
    bases: dict[str, tuple[Dictionary | None, Tensor]] = {
        name: (x, Codes.of(hidden, x).sizes(gradients)) for name, x in plan.dictionaries.items()
    }
    bases["channels"] = (None, channel_sizes(gradients, hidden))
    for dictionary, found in bases.values():
        assert found.shape == (3, 1 + 2 * DRAWS, len(SIZES) - (dictionary is None))
        for image in range(3):
            for s in range(1 + 2 * DRAWS):
                want = by_hand(
                    gradients[image, s].double().numpy(), hidden[image].double().numpy(), dictionary
                )
                assert found[image, s].tolist() == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_parallel_by_hand() -> None:
    one, two, none = torch.tensor([1.0, 0, 0]), torch.tensor([0, 2.0, 0]), torch.zeros(3)
    slanted = torch.tensor([3.0, 3.0, 0])
    found = parallel([x.view(1, 1, 3) for x in (one, -5 * one, two, slanted, none)])
    assert found.flatten().tolist() == pytest.approx([1.5, 1.5, 0.5, 1.5, 0])


def test_parallel_is_that_of_each_pair() -> None:
    vectors = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0))  # f n s k
    found = parallel(list(vectors))
    for image in range(2):
        for s in range(3):
            for f in range(4):
                want = 0.0
                for other in set(range(4)) - {f}:
                    a, b = vectors[f, image, s].double(), vectors[other, image, s].double()
                    want += float((a @ b) ** 2 / (a @ a) / (b @ b))
                assert found[image, f, s].item() == pytest.approx(want, rel=1e-5)


def test_a_batch_gives_all_arrays(small: Network) -> None:
    pair, plan = plan_for(small)
    inputs = inputs_for(small)
    arrays = measure_batch(small, inputs, {pair: plan})
    assert set(arrays) == {
        "third",
        "third/hidden",
        "third/sizes/channels",
        "third/sizes/topk",
        "third/sizes/linear",
        "third/parallel/all",
    }
    _, plus, minus, l2 = np.moveaxis(arrays["third"], 2, 0)
    learnt = arrays["third/sizes/channels"][:, :, 0]
    want = np.stack([plus + minus, l2, np.minimum(plus, minus)], 2)
    assert learnt == pytest.approx(want, rel=1e-4, abs=1e-6)
    hidden = small.activations(inputs, pair.through)[pair.through]
    assert plan.crop.window is not None
    inside = hidden[:, :, *plan.crop.window.slices].flatten(1)
    norms = torch.stack([inside.abs().sum(1), inside.square().sum(1).sqrt()], 1)
    assert arrays["third/hidden"] == pytest.approx(norms.numpy(), rel=1e-5)
    # However many go together, the numbers are the same.
    again = measure_batch(small, inputs[1:2], {pair: plan})
    for name, values in again.items():
        assert values == pytest.approx(arrays[name][1:2], rel=1e-4, abs=1e-6)


def test_no_controls_are_no_controls(small: Network) -> None:
    pair, plan = plan_for(small)
    bare = LayerPlan(
        crop=plan.crop,
        controls=Controls.of(small, plan.crop, 0, seed=0),
        kinds={"all": slice(None)},
    )
    arrays = measure_batch(small, inputs_for(small), {pair: bare})
    assert arrays["third/sizes/channels"].shape == (4, 3, 1, 3)
