"""Two features of one place compared: what speaks for the first and against the second."""

from pathlib import Path

import pytest
import torch
from tests.support.drivers import doubled
from tests.support.plain import plain_network, write_noise
from torch import Tensor

from opponent import Feature, Network, Run, RunError, attribute, scan_images, why
from opponent.explain.contrast import difference, rival_feature
from opponent.explain.image import Why

pytestmark = pytest.mark.usefixtures("one_thread")

PLACE = (2, 3)
EDGE = Feature.direction("after", [0.25, -3.0], name="edge", position=PLACE)
PAIRS = [
    pytest.param("after:0@2,3", "after:1@2,3", id="two units"),
    pytest.param("after:1@2,3", EDGE, id="a unit and a direction"),
    pytest.param(EDGE, Feature.direction("after", [1.0, 1.0], position=PLACE), id="two directions"),
    pytest.param("logits:0", "logits:1", id="two logits"),
]


@pytest.fixture(scope="module")
def network() -> Network:
    """The plain network in double precision."""
    return doubled(plain_network())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of noise."""
    return write_noise(tmp_path_factory.mktemp("noise"), 6)


@pytest.fixture(scope="module")
def answer(network: Network, folder: Path) -> Why:
    """Why one picture gives the first logit rather than the second."""
    return why(network, folder / "1.png", "logits:0", "relu", against="logits:1")


def by_hand(network: Network, inputs: Tensor, feature: Feature) -> tuple[Tensor, Tensor]:
    """Activation and gradient times h through the ReLU, by one backward pass."""
    module = network.module
    hidden = module.relu(module.before(inputs)).detach().requires_grad_()
    maps = module.after(hidden)
    if feature.layer == "logits":
        maps = module.head(module.mean(maps))
    row, column = feature.position or (0, 0)
    values = maps[0, :, row, column]
    if feature.unit is not None:
        activation = values[feature.unit]
    else:
        assert feature.vector is not None
        activation = sum(
            (w * x for w, x in zip(feature.vector, values, strict=True)), torch.zeros(())
        )
    activation.backward()
    assert hidden.grad is not None
    return activation.detach(), (hidden.grad * hidden)[0].detach()


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_numbers_are_those_of_two_backward_passes_subtracted(
    network: Network, folder: Path, first: Feature | str, second: Feature | str
) -> None:
    one, other = network.resolve(first), network.resolve(second)
    inputs, _ = network.load_inputs(folder / "0.png")
    assert inputs.dtype is torch.float64
    (own, own_s), (its, its_s) = (by_hand(network, inputs, x) for x in (one, other))
    s = own_s - its_s
    given = attribute(network, inputs, difference(network, one, other), "relu")
    torch.testing.assert_close(given.attribution[0], s, rtol=1e-10, atol=1e-10)
    answer = why(network, folder / "0.png", first, "relu", against=second, channels=4)
    assert answer.against is not None
    assert answer.feature == one
    assert answer.against.feature == other
    exact = {"rel": 1e-10, "abs": 1e-10}
    assert answer.against.activations == pytest.approx((float(own), float(its)), **exact)
    assert answer.activation == pytest.approx(float(own - its), **exact)
    assert answer.excitation == pytest.approx(float(s[s > 0].sum()), **exact)
    assert answer.inhibition == pytest.approx(float(-s[s < 0].sum()), **exact)
    for each in (*answer.drivers.exciting, *answer.drivers.inhibiting):
        values = s[each.channel]
        assert each.excitation == pytest.approx(float(values[values > 0].sum()), rel=1e-5)
        assert each.inhibition == pytest.approx(float(-values[values < 0].sum()), rel=1e-5)


def test_another_rule_is_subtracted_too(network: Network, folder: Path) -> None:
    first, second = network.resolve("after:0@2,3"), network.resolve("after:1@2,3")
    inputs, _ = network.load_inputs(folder / "0.png")
    own, its, both = (
        attribute(network, inputs, x, "before", rule="integrated-zero/4").attribution
        for x in (first, second, difference(network, first, second))
    )
    torch.testing.assert_close(both, own - its, rtol=1e-10, atol=1e-10)


def test_to_swap_the_features_swaps_the_sides(network: Network, folder: Path, answer: Why) -> None:
    swapped = why(network, folder / "1.png", "logits:1", "relu", against="logits:0")
    assert swapped.activation == pytest.approx(-answer.activation)
    assert swapped.excitation == pytest.approx(answer.inhibition)
    assert swapped.inhibition == pytest.approx(answer.excitation)
    negatives = [each.question.startswith("Why not ") for each in (answer, swapped)]
    assert negatives == [each.activation < 0 for each in (answer, swapped)]
    assert sorted(negatives) == [False, True]


def test_the_answer_names_both(answer: Why, folder: Path) -> None:
    assert answer.against is not None
    own, its = answer.against.activations
    assert answer.titles == ("logits:0", "logits:1")
    assert answer.question.removeprefix("Why not ").removeprefix("Why ") == (
        "logits:0 rather than logits:1?"
    )
    assert answer.verdict.startswith(
        f"logits:0 is at {own:+.3g} and logits:1 at {its:+.3g}, a difference of {own - its:+.3g}: "
        f"relu speaks for the first by {answer.excitation:.3g} and for the second by "
        f"{answer.inhibition:.3g}, {answer.excitation - answer.inhibition:+.3g} together"
    )
    facts = dict(answer.facts())
    assert facts["feature"] == "logits:0"
    assert facts["against"] == "logits:1"
    assert facts["activation of logits:0"] == f"{own:+.4g}"
    assert facts["activation of logits:1"] == f"{its:+.4g}"
    assert facts["difference"] == f"{own - its:+.4g}"
    assert {facts["rank of logits:0"], facts["rank of logits:1"]} == {"1", "2"}
    assert "for the second mostly in" in facts
    assert "rather than" in repr(answer)
    assert "for logits:1" in answer._repr_html_()


def test_meanings_are_part_of_the_question(folder: Path) -> None:
    named = Network(
        plain_network().module, preprocessing=plain_network().preprocessing,
        classes=["banana", "iguana"],
    )  # fmt: skip
    answer = why(named, folder / "0.png", "logits:1", "relu", against="logits:0")
    assert "logits:1 (iguana) rather than logits:0 (banana)?" in answer.question
    assert answer.verdict.startswith("logits:1 (iguana) is at ")
    assert " and logits:0 (banana) at " in answer.verdict


def test_nothing_tells_apart_what_weighs_the_layer_alike(folder: Path) -> None:
    network = plain_network()
    with torch.no_grad():
        network.module.after.weight[1] = network.module.after.weight[0]
        network.module.after.bias.copy_(torch.tensor([3.0, 1.0]))
    answer = why(network, folder / "0.png", "after:0", "relu", against="after:1")
    assert answer.excitation == answer.inhibition == 0
    assert answer.verdict.endswith(
        "a difference of +2, and nothing in relu can move that: every path is shut by a ReLU, the "
        "image is blank there, or both features weigh it alike."
    )


def test_a_second_feature_without_a_place_is_read_at_the_first_ones(network: Network) -> None:
    first = network.resolve("after:0@0,4")
    assert rival_feature(network, first, "after:1").label == "after:1@0,4"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("after:0", "relu:0", "two layers and have no scale in common; compare with .* 'after'"),
        ("after:0@2,3", "after:1@2,4", "read at two places; compare with after:1@2,3$"),
        ("after:0", "after:0", "after:0@3,2 and after:0@3,2 are the same feature"),
        ("after:0", Feature.direction("after", [1.0, 0.0]), "are the same feature; compare with"),
        ("after:0", Feature.direction("after", [1.0, 2.0], power=2), "direction@3,2 has a cosine"),
        (Feature.direction("after", [1.0, 2.0], power=2), "after:0", "leave the power out"),
        ("after:0", "after:2", "has 2 channels"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    network: Network, folder: Path, first: Feature | str, second: Feature | str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        why(network, folder / "0.png", first, "relu", against=second)
    assert "\n" not in str(error.value)


def test_standing_is_that_of_the_difference(folder: Path, tmp_path: Path) -> None:
    network = plain_network()
    run = scan_images(network, folder, ["after:0", "after:1"], "relu", out=tmp_path / "run")
    first, second = (run.columns(name, maps=False) for name in ("after:0", "after:1"))
    apart = first.activation - second.activation
    image = first.images[int(apart.argmax())]
    answer = why(network, folder / image, "after:0", "relu", against="after:1", run=run)
    assert answer.standing is not None
    assert list(answer.standing) == ["the difference"]
    # Itself counts half, but for rounding.
    assert answer.standing["the difference"] == pytest.approx(100 * 5.5 / 6, abs=100 * 0.51 / 6)
    assert "percentile of the difference" in dict(answer.facts())
    alone = scan_images(network, folder, "after:0", "relu", out=tmp_path / "alone")
    assert isinstance(alone, Run)
    with pytest.raises(ValueError, match="holds no 'after:1@3,2'"):
        why(network, folder / image, "after:0", "relu", against="after:1", run=alone)
    with pytest.raises(RunError, match="not through 'before'"):
        why(network, folder / image, "after:0", "before", against="after:1", run=run)
