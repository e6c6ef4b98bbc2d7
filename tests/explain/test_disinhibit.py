"""Without its inhibition: the network run on exactly, worked by hand and by slow twins."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.dictionaries import made
from tests.support.token_networks import SequenceFirst, Tokens, small
from torch import Tensor, nn
from torch.nn import functional

import opponent
from opponent import Dictionary, Disinhibited, Network, Preprocessing, RunError
from opponent.attribution.through_dictionary import Written
from opponent.explain.disinhibition.ablation import (
    choose_ablations,
    clamp_at_zero,
    left_range,
    take_channels,
    take_latents,
)
from opponent.explain.disinhibition.classes import UNKNOWN, Classes, read_labels
from opponent.explain.disinhibition.continuation import Continuation, plan_from

SIZE = (5, 5)
COUNT = 60


class Whole(nn.Module):
    """Two layers of whole numbers without biases: early = relu(A x), mixed = relu(B relu(C early)).

    Of one position each, so that all can be worked by hand.
    """

    def __init__(self, between: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(3, 4, 1, bias=False)
            self.second = nn.Conv2d(4, 3, 3, padding=1, bias=False)
            self.third = nn.Conv2d(3, 2, 1, bias=False)
        self.early, self.middle, self.mixed = nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU()
        self.between = between
        rng = np.random.default_rng(5)
        rows = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, -1.0]])
        self.first.weight.data = rows.view(4, 3, 1, 1)
        drawn = rng.integers(-2, 3, (3, 4, 3, 3)).astype(np.float32)
        self.second.weight.data = torch.from_numpy(drawn)
        self.third.weight.data = torch.tensor([[2.0, -3.0, 1.0], [-1.0, 1.0, -2.0]]).view(
            2, 3, 1, 1
        )

    def forward(self, x: Tensor) -> Tensor:
        middle = self.second(self.early(self.first(x)))
        return self.mixed(self.third(self.middle(middle) if self.between else middle))


class Speckle:
    """Images of black and white in each colour."""

    name = "speckle"

    def ids(self) -> list[str]:
        return [f"{number:02d}" for number in range(COUNT)]

    def image(self, id: str) -> np.ndarray:
        rng = np.random.default_rng(int(id))
        return 255 * (rng.random((*SIZE, 3)) < 0.5).astype(np.uint8)


def network_of(module: nn.Module, dtype: torch.dtype = torch.float64) -> Network:
    prepared = Preprocessing(size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Network(module, preprocessing=prepared, name="whole").to(dtype=dtype)


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(Whole())


FEATURES = ["mixed:0@2,2", "mixed:1@2,2"]


@pytest.fixture(scope="module")
def found(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Disinhibited:
    return opponent.disinhibit(
        network, Speckle(), FEATURES, "early", k=2, draws=3, batch_size=7,
        dictionary=Dictionary.identity(4, "early"), out=tmp_path_factory.mktemp("whole") / "out",
    )  # fmt: skip


def by_hand(module: Any, image: np.ndarray, unit: int) -> dict[str, Any]:
    """f, S and f' of one image, one product after the other, in whole numbers."""
    x = image.transpose(2, 0, 1).astype(int) // 255
    one, two, three = (
        layer.weight.detach().numpy().astype(int)
        for layer in (module.first, module.second, module.third)
    )
    h = np.maximum(np.einsum("kc,chw->khw", one[:, :, 0, 0], x), 0)

    def run_on(h: np.ndarray) -> tuple[int, np.ndarray]:
        window = h[:, 1:4, 1:4]  # of the three by three around the middle
        middle = np.array([sum((two[m] * window).ravel()) for m in range(3)])
        on = middle > 0 if module.between else np.ones(3, bool)
        f = sum(int(three[unit, m, 0, 0] * middle[m]) for m in range(3) if on[m])
        slope = sum(three[unit, m, 0, 0] * two[m] for m in range(3) if on[m])
        return f, slope * np.ones_like(window)

    f, slope = run_on(h)
    s = slope * h[:, 1:4, 1:4]
    changed = h.copy()
    changed[:, 1:4, 1:4][s < 0] = 0
    return {
        "f": f,
        "plus": int(s[s > 0].sum()),
        "minus": -int(s[s < 0].sum()),
        "hidden": int(h[:, 1:4, 1:4].sum()),
        "exact": run_on(changed)[0],
        "h": h,
        "s": s,
        "run_on": lambda h: run_on(h)[0],
    }


def test_it_is_what_is_worked_by_hand(network: Network, found: Disinhibited) -> None:
    source = Speckle()
    for unit in range(2):
        for row, image in enumerate(found.images):
            hand = by_hand(network.module, source.image(image), unit)
            assert found.activation[row, unit] == hand["f"]
            assert found.excitation[row, unit] == hand["plus"]
            assert found.inhibition[row, unit] == hand["minus"]
            assert found.hidden[row, unit] == hand["hidden"]
            assert found.exact[row, unit, 0] == hand["exact"]
            # Without biases f is the sum of S: what is left is excitation.
            assert found.linear[row, unit, 0] == hand["plus"]


def test_sets_take_from_their_channels_alone(network: Network, found: Disinhibited) -> None:
    source = Speckle()
    for place, ablation in enumerate(found.ablations):
        if ablation.of_latents or ablation.members is None:
            continue
        for unit in range(2):
            for row, image in enumerate(found.images[:20]):
                hand = by_hand(network.module, source.image(image), unit)
                changed = hand["h"].copy()
                for k in ablation.of(unit) or ():
                    changed[k, 1:4, 1:4][hand["s"][k] < 0] = 0
                assert found.exact[row, unit, place] == hand["run_on"](changed)


def test_most_are_those_that_inhibit_tense_images_most(
    network: Network, found: Disinhibited
) -> None:
    source, most = Speckle(), found.ablations[found.draws("most")[0]]
    for unit in range(2):
        means = np.zeros(4)
        for row in np.flatnonzero(found.tense[:, unit]):
            s = by_hand(network.module, source.image(found.images[row]), unit)["s"]
            means += -np.minimum(s, 0).sum((1, 2))
        assert found.tense[:, unit].any()
        assert most.of(unit) == tuple(np.argsort(-means, kind="stable")[:2].tolist())


def test_channels_as_dictionary_give_the_same(found: Disinhibited) -> None:
    one, other = found.draws("all")[0], found.draws("functional")[0]
    np.testing.assert_array_equal(found.exact[:, :, one], found.exact[:, :, other])
    np.testing.assert_array_equal(found.linear[:, :, one], found.linear[:, :, other])
    one, other = found.draws("most")[0], found.draws("most-latents")[0]
    assert found.ablations[one].members == found.ablations[other].members
    np.testing.assert_array_equal(found.exact[:, :, one], found.exact[:, :, other])
    np.testing.assert_array_equal(found.tension, found.latent_tension)
    assert not found.below.any()


def test_where_the_rest_is_linear_the_estimate_is_exact() -> None:
    linear = network_of(Whole(between=False))
    result = opponent.disinhibit(
        linear,
        Speckle(),
        FEATURES,
        "early",
        k=2,
        draws=2,
        dictionary=made("relu", 9, layer="early"),
    )
    np.testing.assert_allclose(result.exact, result.linear, rtol=1e-6, atol=1e-5)
    assert len(result.names) == 6
    assert all(row["r"] > 0.999999 for row in result.summary if row["change"] > 0)


def test_latents_with_a_negative_share_are_taken_out() -> None:
    module = Whole()
    network = network_of(module)
    dictionary = made("relu", 9, layer="early")
    feature = network.resolve(FEATURES[0])
    images = np.stack([Speckle().image(f"{i:02d}") for i in range(6)])
    inputs = network.inputs(images)
    plan = plan_from(network, [feature], "early", inputs)
    held = Continuation(network, inputs, plan, [feature])
    [gradient] = held.gradients()
    h, g = held.hidden.numpy(), gradient.numpy()
    written = Written.of(held.hidden, dictionary)
    s = written.terms(gradient)[0]
    for members in (None, (1, 4, 7)):
        changed = take_latents(held.hidden, written, s, members)
        slow = h.copy()
        for n, z, y, x in np.ndindex(*written.codes.shape):
            code = float(written.codes[n, z, y, x])
            d = dictionary.decoder[z].double().numpy()
            if code * float(d @ g[n, :, y, x]) < 0 and (members is None or z in members):
                slow[n, :, y, x] -= code * d
        np.testing.assert_allclose(changed.numpy(), slow, atol=1e-12)
        # What the network then gives, written out.
        whole = module.early(module.first(inputs)).detach().clone()
        whole[:, :, 1:4, 1:4] = torch.from_numpy(slow)
        middle = functional.relu(functional.conv2d(whole, module.second.weight, padding=1))
        expected = module.third(middle)[:, 0, 2, 2].detach()
        torch.testing.assert_close(held.read(0, changed), expected)
        share, size = left_range(changed, held.hidden)
        np.testing.assert_allclose(share.numpy(), (slow < 0).mean((1, 2, 3)), rtol=1e-6)
        negative = -np.minimum(slow, 0).sum((1, 2, 3))
        np.testing.assert_allclose(size.numpy(), negative / np.abs(h).sum((1, 2, 3)))
        assert not left_range(clamp_at_zero(changed, held.hidden), held.hidden)[0].any()


def test_clamped_nothing_becomes_negative(network: Network) -> None:
    kept, clamped = (
        opponent.disinhibit(
            network, Speckle(), FEATURES, "early", k=2, draws=1, clamp=clamp,
            dictionary=made("relu", 9, layer="early"),
        )
        for clamp in (False, True)
    )  # fmt: skip
    assert kept.below.any()
    assert not clamped.below.any()
    assert not clamped.below_size.any()
    place = kept.draws("all")[0]
    np.testing.assert_array_equal(kept.exact[:, :, place], clamped.exact[:, :, place])


def test_negative_h_is_no_damage() -> None:
    hidden, s = torch.tensor([-1.0, 2.0, 3.0]).view(1, 3, 1, 1), torch.tensor([-1.0, -2.0, 1.0])
    changed = take_channels(hidden, s.view(1, 3, 1, 1), None)
    assert changed.flatten().tolist() == [0, 0, 3]
    assert take_channels(hidden, s.view(1, 3, 1, 1), [1]).flatten().tolist() == [-1, 0, 3]
    share, size = left_range(hidden, hidden)
    assert float(share) == float(size) == 0
    assert clamp_at_zero(hidden, hidden).tolist() == hidden.tolist()


def test_latents_that_inhibit_nothing_leave_all_as_it_was(network: Network) -> None:
    one = torch.zeros(1, 4)
    one[0, 0] = 1
    silent = Dictionary(
        decoder=one, bias=torch.zeros(4), encoder=one, encoder_bias=torch.full((1,), -9.0),
        kind="relu",
    )  # fmt: skip
    found = opponent.disinhibit(
        network, Speckle(), FEATURES, "early", k=1, draws=1, dictionary=silent
    )
    for name in ("functional", "most-latents", "random-latents"):
        [place] = found.draws(name)
        np.testing.assert_array_equal(found.exact[:, :, place], found.activation)
        rows = [x for x in found.summary if x["ablation"] == name]
        assert all(np.isnan(x["taken"]) and x["change"] == 0 for x in rows)
    assert found.ablations[found.draws("most-latents")[0]].members == ((), ())
    json.dumps(found.describe(), allow_nan=False)


def test_sets_at_random_are_seeded_and_inhibit() -> None:
    means = np.array([[3.0, 0.0, 1.0, 2.0, 5.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]], np.float32)
    first, same, other = (
        choose_ablations(["a"] * len(means), means, means, 2, 4, seed) for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other
    # A feature's sets are its own, whichever others there are, and however many sets are drawn.
    alone = choose_ablations(["b"], means[:1], means[:1], 2, 2, 0)
    beside = choose_ablations(["a", "b"], means[[1, 0]], means[[1, 0]], 2, 4, 0)
    sets = {(x.name, x.draw): x.members for x in beside}
    for ablation in alone:
        if ablation.members is not None:
            assert ablation.members[0] == sets[ablation.name, ablation.draw][1]
    assert [x.name for x in first[:6]] == ["all", "most", *["random"] * 4]
    assert first[1].members == ((4, 0), (2,))
    for ablation in first:
        if ablation.at_random:
            assert ablation.members is not None
            assert len(set(ablation.members[0])) == 2
            assert 1 not in ablation.members[0]
            assert ablation.members[1] == (2,)


def test_a_pass_that_begins_at_the_images_gives_the_same(
    network: Network, found: Disinhibited, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opponent.explain.disinhibition import continuation

    def from_images(network: Network, features: Any, through: str, *, start: str) -> Any:
        return opponent.geometry.planning.plan_crop(network, features, through)  # type: ignore[attr-defined]

    monkeypatch.setattr(continuation, "plan_crop", from_images)
    again = opponent.disinhibit(
        network_of(Whole()), Speckle(), FEATURES, "early", k=2, draws=3, batch_size=7,
        dictionary=Dictionary.identity(4, "early"),
    )  # fmt: skip
    np.testing.assert_array_equal(again.exact, found.exact)
    np.testing.assert_array_equal(again.hidden, found.hidden)


def test_it_goes_on_where_it_stopped(network: Network, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stops(what: str, done: int, total: int) -> None:
        if what == "without inhibition" and done:
            raise Stop

    arguments: Any = (network, Speckle(), FEATURES, "early")
    with pytest.raises(Stop):
        opponent.disinhibit(*arguments, k=2, out=tmp_path / "out", progress=stops)
    seen = list[str]()
    resumed = opponent.disinhibit(
        *arguments, k=2, out=tmp_path / "out", progress=lambda what, *_: seen.append(what)
    )
    assert "what inhibits it" not in seen
    whole = opponent.disinhibit(*arguments, k=2)
    np.testing.assert_array_equal(resumed.exact, whole.exact)
    with pytest.raises(RunError, match="another question"):
        opponent.disinhibit(*arguments, k=3, out=tmp_path / "out")


def test_tables_say_what_the_numbers_say(found: Disinhibited) -> None:
    rates = {(x["feature"], x["ablation"], x["group"], x["over"]): x for x in found.rates}
    label, f = found.features[0].label, found.activation[:, 0]
    after = found.exact[:, 0, 0]
    row = rates[label, "all", "silent", "zero"]
    assert row["images"] == (f <= 0).sum()
    assert row["before"] == 0
    assert row["after"] == pytest.approx((after[f <= 0] > 0).mean())
    assert row["after_low"] <= row["after"] <= row["after_high"]
    draws = found.exact[:, 0][:, found.draws("random")]
    row = rates[label, "random", "all", "zero"]
    assert row["after"] == pytest.approx((draws > 0).mean())
    assert row["after_low"] == pytest.approx((draws > 0).mean(0).min())
    [row] = [x for x in found.summary if (x["feature"], x["ablation"]) == (label, "all")]
    own, tense = f[found.own[:, 0]], f[found.tense[:, 0]]
    pairs = [(a > b) + (a == b) / 2 for a in own for b in tense]
    assert row["auc_before"] == pytest.approx(np.mean(pairs)) == 1
    assert row["change"] == pytest.approx((after - f).mean())
    assert row["taken"] == 1
    [row] = [x for x in found.summary if (x["feature"], x["ablation"]) == (label, "most")]
    tense, place = found.tense[:, 0], found.draws("most")[0]
    taken = (found.linear[:, 0, place] - f)[tense].sum() / found.inhibition[tense, 0].sum()
    assert row["taken"] == pytest.approx(taken)
    frame = found.to_pandas()
    assert len(frame) == COUNT * 2 * len(found.ablations)
    chosen = frame[(frame.image == "07") & (frame.feature == label) & (frame.ablation == "all")]
    assert chosen.exact.tolist() == [after[7]]
    assert chosen.activation.tolist() == [f[7]]
    assert len(found.facts()) == 2 * 6
    assert json.loads(json.dumps(found.describe(), allow_nan=False))["images"] == COUNT
    assert repr(found) == "Disinhibited('mixed:0@2,2', 'mixed:1@2,2' by 'early': 60 images)"


class Answers(nn.Module):
    """Three classes of one red, green or blue pixel, each held back by the next colour."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.early, self.head = nn.Conv2d(3, 3, 1, bias=False), nn.Linear(3, 3, bias=False)
        self.relu = nn.ReLU()
        self.early.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.head.weight.data = torch.tensor([[2.0, -3, 0], [0, 2, -3.0], [-3.0, 0, 2]])

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.head(self.relu(self.early(x)).mean((2, 3)))
        return answers


class Mixed:
    """Images that are mostly of one colour, called by it, with some of the next."""

    name = "mixed"

    def ids(self) -> list[str]:
        return [f"{colour}/{number}" for colour in "rgb" for number in range(20)]

    def image(self, id: str) -> np.ndarray:
        colour, number = "rgb".index(id[0]), int(id[2:])
        pixel = np.zeros(3, np.uint8)
        pixel[colour], pixel[(colour + 1) % 3] = 200 - 5 * number, 60 + 7 * number
        return np.broadcast_to(pixel, (*SIZE, 3)).copy()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        rows = [(image, "rgb".index(image[0])) for image in Mixed().ids()]
        csv.writer(file).writerows([("image", "class"), *rows])
    return path


def test_classes_are_confused_without_inhibition(labels: Path) -> None:
    network = network_of(Answers())
    found = opponent.disinhibit(
        network, Mixed(), ["logits:0", "logits:1"], "relu", k=1, draws=2, labels=str(labels)
    )
    classes = found.classes
    assert classes is not None
    assert found.own[:, 0].tolist() == [image[0] == "r" for image in found.images]
    logits = network.activations(mixed_inputs(network), "logits")["logits"].flatten(1).numpy()
    np.testing.assert_allclose(found.activation, logits[:, :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(classes.rival, logits[:, 2], rtol=1e-5, atol=1e-6)
    true = classes.labels
    # A logit without inhibition is twice the mean of its own colour.
    x = np.stack([Mixed().image(i)[0, 0] for i in found.images]) / 255
    np.testing.assert_allclose(found.exact[:, :, 0], 2 * x[:, :2], rtol=1e-5)
    changed = logits.copy()
    changed[:, :2] = 2 * x[:, :2]
    rows = {(r["ablation"], r["replaced"], r["among"], r["group"]): r for r in found.accuracy}
    ours = true < 2
    row = rows["all", "all of them", "all", "of the chosen classes"]
    assert row["before"] == pytest.approx((logits.argmax(1) == true)[ours].mean())
    assert row["after"] == pytest.approx((changed.argmax(1) == true)[ours].mean())
    row = rows["all", "all of them", "all", "of other classes"]
    assert row["after"] == pytest.approx((changed.argmax(1) == true)[~ours].mean())
    row = rows["all", "all of them", "chosen", "of the chosen classes"]
    assert row["after"] == pytest.approx((changed[:, :2].argmax(1) == true)[ours].mean())
    alone = logits.copy()
    alone[:, 1] = 2 * x[:, 1]
    row = rows["all", "1", "all", "of the chosen classes"]
    assert row["after"] == pytest.approx((alone.argmax(1) == true)[ours].mean())
    confusions = [
        r for r in found.confusions if (r["ablation"], r["replaced"]) == ("all", "together")
    ]
    assert [r["new"] for r in confusions] == sorted((r["new"] for r in confusions), reverse=True)
    for r in confusions:
        where = true == int(r["true"])
        for name, values in (("before", logits), ("after", changed)):
            assert r[name] == (values.argmax(1)[where] == int(r["answer"])).sum()
    single = [r for r in found.confusions if (r["ablation"], r["replaced"]) == ("all", "alone")]
    for r in single:
        if r["answer"] == "1":
            assert r["after"] == (alone.argmax(1)[true == int(r["true"])] == 1).sum()


def mixed_inputs(network: Network) -> Tensor:
    return network.inputs(np.stack([Mixed().image(i) for i in Mixed().ids()]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5}, "k = 5, and the through layer, or its dictionary, has 4"),
        ({"draws": 0}, "draws must be positive, got 0"),
        ({"features": []}, "of one layer; got none"),
        ({"features": ["mixed:0@2,2", "mixed:0"]}, "named twice: 'mixed:0@2,2'"),
        ({"through": "mixed"}, "mixed"),
        ({"dictionary": Dictionary.identity(4, "middle")}, "is of 'middle', not of 'early'"),
        ({"dictionary": Dictionary.identity(3)}, "of 3 channels, and 'early' has 4"),
        ({"labels": "wordnet"}, "labels are for units of the network's output"),
        ({"images": [np.zeros((*SIZE, 3), np.uint8)] * 8}, "has 8 images; groups of them need 20"),
        ({"images": [np.zeros((*SIZE, 3), np.uint8)] * 30}, "nothing inhibits mixed:0@2,2 in any"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(
    network: Network, arguments: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {"images": Speckle(), "features": FEATURES, "through": "early"}
    with pytest.raises(ValueError, match=message):
        opponent.disinhibit(network, **given | {"k": 2} | arguments)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    network, path = network_of(Answers()), tmp_path / "labels.csv"
    given: Any = (network, Mixed(), ["logits:0"], "relu")
    for text, message in (
        ("name,class\nr/0,1\n", "no columns image and class"),
        ("image,class\nr/0,3\n", "'r/0' is of class '3'; the network's classes are 0 to 2"),
        ("image,class\nother.jpg,1\n", "none of 60 images has a class .* 'other.jpg'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            opponent.disinhibit(*given, k=1, labels=str(path))
    with pytest.raises(ValueError, match="labels by WordNet ids are of ImageNet's 1,000"):
        opponent.disinhibit(*given, k=1, labels="wordnet")
    with pytest.raises(FileNotFoundError):
        opponent.disinhibit(*given, k=1, labels=str(tmp_path / "none.csv"))


class Branched(nn.Module):
    """Two branches that are joined: what goes around the first is left as it is."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.third, self.fourth = nn.Conv2d(8, 5, 3), nn.Conv2d(5, 2, 1)
        self.one, self.other, self.mixed = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.one(self.first(x)), self.other(self.second(x))], 1)
        answers: Tensor = self.fourth(self.mixed(self.third(joined)))
        return answers


def seeded(make: Any) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return small(make()).to(dtype=torch.float64)


@pytest.mark.parametrize(
    ("network", "feature", "through"),
    [
        (network_of(Branched()), "fourth:1@1,1", "one"),
        (network_of(Branched()), "fourth:1@0,2", "mixed"),
        (seeded(Tokens), "logits:0", "norm"),
        (seeded(SequenceFirst), "logits:0", "first"),
    ],
    ids=["branch", "joined", "tokens", "sequence"],
)
def test_the_rest_of_any_network_is_run(network: Network, feature: str, through: str) -> None:
    rng = np.random.default_rng(0)
    height, width = network.preprocessing.size
    images = [rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(40)]
    found = opponent.disinhibit(network, images, [feature], through, k=1, draws=1, batch_size=16)
    inputs = network.inputs(np.stack(images))
    [resolved] = found.features
    s = opponent.attribute(network, inputs, resolved, through).attribution

    def without(hidden: Tensor) -> Tensor:
        return torch.where(s < 0, 0, hidden)

    after = network.run(inputs, resolved.layer, through, substitute=without).target
    np.testing.assert_allclose(found.exact[:, 0, 0], resolved.read(after), rtol=1e-5, atol=1e-6)
    assert (found.exact[:, 0, 0] != found.activation[:, 0]).any()


def test_names_that_two_classes_have_are_told_by_number(tmp_path: Path) -> None:
    network = Network(Answers(), preprocessing=Preprocessing(size=SIZE), classes=("a", "b", "a"))
    path = tmp_path / "labels.csv"
    path.write_text("image,class\nr/0.png,b\nq/1.png,2\n0.png,1\n1.png,1\n")
    ids = ["r/0.png", "q/1.png", "s/1.png", "q/0.png"]
    # A file's name alone tells an image only where no other has it.
    assert read_labels(network, "logits", ids, str(path)).tolist() == [1, 2, UNKNOWN, UNKNOWN]
    assert read_labels(network, "logits", ["s/0.png"], str(path)).tolist() == [1]
    path.write_text("image,class\nr/0.png,a\n")
    with pytest.raises(ValueError, match=r"several classes are called 'a' \(0, 2\); give the n"):
        read_labels(network, "logits", ids, str(path))
    zero = np.zeros(1, np.int64)
    names = dict(enumerate(network.classes or ()))
    classes = Classes(
        chosen=(0, 2), names=names, labels=zero, rival=np.zeros(1, np.float32), rival_class=zero
    )
    assert [classes.name(x) for x in range(4)] == ["a (0)", "b", "a (2)", "3"]
