"""Channels set to zero: against networks without their weights, and the check that `who` prints."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.support.drivers import DEAD, PLAIN, WIDTH, close, doubled, noise

from opponent import Feature, Network, Run
from opponent.explain.channels import who
from opponent.explain.crops import photograph
from opponent.explain.silencing import silence, silence_check

pytestmark = pytest.mark.usefixtures("one_thread")


def test_silence_is_a_network_without_the_channels_weights(integer_network: Network) -> None:
    network = doubled(integer_network)
    inputs = noise(network)
    feature = Feature.parse("mixed:3@4,0")
    before = network.run(inputs, "mixed").target[:, 3, 4, 0]
    changes = silence(network, inputs, feature, "early", range(WIDTH))
    assert changes.shape == (WIDTH, 3)
    assert changes.dtype == torch.float64
    assert not changes.requires_grad
    for channel in range(WIDTH):
        cut = copy.deepcopy(network.module)
        cut.second.weight.data[:, channel] = 0
        after = Network(cut, preprocessing=PLAIN).run(inputs, "mixed").target[:, 3, 4, 0]
        close(changes[channel], after - before)
    assert not changes[DEAD].any()
    assert changes.any(1).sum() >= WIDTH - 3


@pytest.mark.parametrize("branch", [(0, 32), (32, 96), (96, 112), (112, 128)])
def test_silence_of_the_embedded_network(embedded: Network, branch: tuple[int, int]) -> None:
    """All four branches of the next block lose their weights of a branch's most active channel."""
    network = doubled(embedded)
    inputs = noise(network)
    hidden = network.run(inputs, "mixed4a", "mixed3a").through
    assert hidden is not None
    channel = branch[0] + int(hidden[:, slice(*branch)].sum((0, 2, 3)).argmax())
    before = network.run(inputs, "mixed4a").target[:, 7, 3, 4]
    [change] = silence(network, inputs, "mixed4a:7@3,4", "mixed3a", [channel])
    cut = copy.deepcopy(network.module)
    layers = ("1x1", "3x3_bottleneck", "5x5_bottleneck", "pool_reduce")
    for name in layers:
        convolution = cut.get_submodule(f"mixed3b_{name}_pre_relu_conv")
        convolution.weight.data[:, channel] = 0
    twin = Network(cut, preprocessing=network.preprocessing)
    close(change, twin.run(inputs, "mixed4a").target[:, 7, 3, 4] - before)
    assert change.abs().max() > 1e-6


def test_silence_before_a_relu_in_place(integer_network: Network) -> None:
    """The through layer's own output is written over by what follows it."""
    network = doubled(integer_network)
    inputs = noise(network)
    given = inputs.clone()
    state = {name: x.clone() for name, x in network.module.state_dict().items()}
    before = network.run(inputs, "mixed").target[:, 1, 6, 5]
    for channel in (0, 9):
        cut = copy.deepcopy(network.module)
        cut.first.weight.data[channel] = 0
        cut.first.bias.data[channel] = 0
        after = Network(cut, preprocessing=PLAIN).run(inputs, "mixed").target[:, 1, 6, 5]
        for _ in range(2):
            close(silence(network, inputs, "mixed:1", "first", [channel])[0], after - before)
    torch.testing.assert_close(inputs, given, rtol=0, atol=0)
    for name, values in network.module.state_dict().items():
        assert torch.equal(values, state[name])
    assert all(x.grad is None and x.requires_grad for x in network.module.parameters())


def test_silence_of_directions_and_logits(embedded: Network) -> None:
    network = doubled(embedded)
    inputs = noise(network, 2)
    both = [1.0, -2.0, *[0.0] * 238]
    feature = Feature.direction("mixed3b", both, position=(2, 2))
    change = silence(network, inputs, feature, "mixed3a", [5])
    parts = [silence(network, inputs, f"mixed3b:{k}@2,2", "mixed3a", [5]) for k in (0, 1)]
    close(change, parts[0] - 2 * parts[1])
    logit = silence(network, inputs, "logits:3", "avgpool0", [8])
    weight = network.module.get_submodule("softmax2_pre_activation_matmul").weight
    hidden = network.run(inputs, "logits", "avgpool0").through
    assert hidden is not None
    close(logit[0], -weight[3, 8].detach() * hidden[:, 8, 0, 0])


def test_silencing_nothing(integer_network: Network) -> None:
    changes = silence(integer_network, noise(integer_network, 2).float(), "mixed:1", "early", [])
    assert changes.shape == (0, 2)


@pytest.mark.parametrize(
    ("feature", "through", "channels", "message"),
    [
        ("mixed:1", "early", [0, WIDTH], r"'early' has 14 channels, 0 to 13; got \[14\]"),
        ("mixed:1", "early", [-1], r"'early' has 14 channels, 0 to 13; got \[-1\]"),
        ("mixed:1", "pixels", [3], r"'pixels' has 3 channels, 0 to 2; got \[3\]"),
        ("mixed:4", "early", [0], "has 4 channels, 0 to 3"),
        ("mixed:1@12,0", "early", [0], "outside the layer's map"),
        ("mixed:1", "erly", [0], "no layer 'erly'; did you mean early"),
        ("mixed:1", "mixed", [0], "does not lie before the target"),
    ],
)
def test_what_cannot_be_silenced_is_refused(
    integer_network: Network, feature: str, through: str, channels: list[int], message: str
) -> None:
    """And no hook is left behind, as the fixture around every test sees."""
    with pytest.raises(ValueError, match=message):
        silence(integer_network, noise(integer_network, 1).float(), feature, through, channels)


def test_a_check_silences_the_tops_and_all_others(
    integer_run: Run, integer_network: Network
) -> None:
    """Fewer others than asked for: each of them once, in some order."""
    answer = who(integer_run, "mixed:1", channels=2, crops=0)
    checked = silence_check(integer_run, integer_network, answer, random=100)
    tops = answer.exciting[0].channel, answer.inhibiting[0].channel
    rows = np.array([integer_run.columns("mixed:1").images.index(x) for x in answer.images])
    means = -integer_run.channels("mixed:1", rows=rows).astype(np.float64).mean(0)
    for effect, top, changes in (
        (checked.exciting, tops[0], means),
        (checked.inhibiting, tops[1], means),
        (checked.excitation, tops[0], -answer.excitation),
        (checked.inhibition, tops[1], answer.inhibition),
    ):
        assert effect.top == pytest.approx(changes[top], abs=1e-4)
        others = sorted(changes[k] for k in range(WIDTH) if k not in tops)
        np.testing.assert_allclose(sorted(effect.random), others, atol=1e-4)
    assert checked.inhibition.top == pytest.approx(answer.inhibiting[0].inhibition, abs=1e-4)
    assert checked.inhibition.top > max(checked.inhibition.random)


def test_a_check_draws_from_its_seed(run: Run, embedded: Network) -> None:
    answer = who(run, "mixed3b:189", images=["03.png", "33.png"], channels=1, crops=0)
    one = silence_check(run, embedded, answer)
    assert one == silence_check(run, embedded, answer, seed=0)
    assert [len(x.random) for x in (one.exciting, one.inhibition)] == [8, 8]
    other = silence_check(run, embedded, answer, random=3, seed=1)
    assert len(other.exciting.random) == 3
    assert other.exciting.random != one.exciting.random[:3]
    assert (other.exciting.top, other.inhibition.top) == (
        pytest.approx(one.exciting.top), pytest.approx(one.inhibition.top),
    )  # fmt: skip
    none = silence_check(run, embedded, answer, random=0)
    assert none.inhibiting.random == none.inhibition.random == ()
    # One image and one channel at a time, by another way than the check's.
    path = [run.images.find(image).path for image in answer.images]
    feature, plain = run.features[0], []
    for channel in (answer.exciting[0].channel, answer.inhibiting[0].channel):
        changes = []
        for each in path:
            inputs = embedded.inputs(
                photograph(run.images.find(each.name), run.preprocessing)[None]
            )
            hidden = embedded.run(inputs, feature.layer, "mixed3a").through
            assert hidden is not None
            hidden[:, channel] = 0
            with_it = embedded.run(inputs, feature.layer).target
            without = embedded.run(
                inputs, feature.layer, "mixed3a", substitute=lambda _, hidden=hidden: hidden
            )
            changes.append(float(feature.read(without.target) - feature.read(with_it)))
        plain.append(sum(changes) / len(changes))
    assert (one.exciting.top, one.inhibiting.top) == (
        pytest.approx(plain[0], rel=1e-3, abs=1e-4), pytest.approx(plain[1], rel=1e-3, abs=1e-4),
    )  # fmt: skip


def test_a_side_without_channels_is_not_silenced(
    integer_run: Run, integer_network: Network
) -> None:
    answer = who(integer_run, "mixed:1", channels=1, crops=0)
    whole_check = silence_check(integer_run, integer_network, answer, random=0)
    for side, other in (("exciting", "inhibiting"), ("inhibiting", "exciting")):
        drivers = replace(answer.drivers, **{side: ()})
        checked = silence_check(
            integer_run, integer_network, replace(answer, drivers=drivers), random=0
        )
        assert getattr(checked, side).top is None
        assert getattr(checked, other).top == pytest.approx(getattr(whole_check, other).top)
    neither = replace(answer, drivers=replace(answer.drivers, exciting=(), inhibiting=()))
    assert silence_check(integer_run, integer_network, neither, random=0).exciting.random == ()
    assert len(silence_check(integer_run, integer_network, neither).exciting.random) == 8


def test_one_channel_may_be_the_first_of_both_sides(
    integer_run: Run, integer_network: Network
) -> None:
    answer = who(integer_run, "mixed:1", channels=1, crops=0)
    both = replace(answer.drivers, exciting=answer.inhibiting)
    checked = silence_check(integer_run, integer_network, replace(answer, drivers=both), random=99)
    assert checked.exciting == checked.inhibiting
    assert len(checked.exciting.random) == WIDTH - 1
    first = answer.inhibiting[0]
    assert checked.excitation.top == pytest.approx(-first.excitation, abs=1e-4)
    assert checked.inhibition.top == pytest.approx(first.inhibition, abs=1e-4)
