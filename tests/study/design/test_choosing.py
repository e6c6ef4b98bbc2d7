"""The trials of a layer: every rule of appendix B, for any scan."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opponent.study.design.choosing import Candidate, Chosen, choose


def candidate(
    activation: Sequence[float],
    norm: Sequence[float] | None = None,
    *,
    label: str = "a:0",
    photos: Sequence[str] | None = None,
    crops: Sequence[str] | None = None,
) -> Candidate:
    """A feature over images; each a photograph of its own, unless told otherwise."""
    count = len(activation)
    photos = photos or [f"photo {i}" for i in range(count)]
    names = crops or [f"crop {i}" for i in range(count)]
    return Candidate(
        label=label,
        activation=np.array(activation, np.float32),
        norm=np.array([1.0] * count if norm is None else norm, np.float32),
        photos=photos,
        crop=names.__getitem__,
    )


# Twenty images: 0 excites most, 19 inhibits most; the norms' 90th percentile is 1.
RAMP = [10.0, 9, 8, 7, 6, 5, 4, *[0.0] * 12, -10]


def test_a_trial_by_hand() -> None:
    [trial], passed = choose([candidate(RAMP)], 1)
    assert passed == {}
    assert (trial.mei, trial.mii) == (0, 19)
    assert trial.examples == (1, 2, 3, 4, 5, 6)
    assert len(set(trial.distractors)) == 7
    assert set(trial.distractors) <= set(range(7, 19))


def test_distractors_are_modest_and_salient() -> None:
    # Mean 0 and sd 1 but for the targets: 7 and 8 lie beyond 2 sd, 9 to 12 have small norms.
    activation = [60.0, 59, 58, 57, 56, 55, 54, *[0.0] * 193, -60]
    activation[7], activation[8] = 40.0, -40.0
    norm = np.zeros(201)
    norm[7:20] = 1  # 13 of 201 in the top tenth; of these 2 are not modest
    norm[9:13] = 0
    [trial], _ = choose([candidate(activation, norm.tolist(), label="x")], 1, distractors=7)
    # The 90th percentile is 0 here, so that all are salient: raise the others.
    assert {7, 8}.isdisjoint(trial.distractors)
    norm = np.arange(201) / 1000
    norm[13:34] += 1
    [trial], _ = choose([candidate(activation, norm.tolist())], 1)
    assert set(trial.distractors) <= set(range(13, 34))


def test_too_few_distractors_are_told_in_numbers() -> None:
    activation = [*RAMP[:7], *[0.0] * 6, -10]
    with pytest.raises(ValueError, match=r"0 of 1 trials can be filled from 1 features .*6 of 7 "):
        choose([candidate(activation)], 1)
    norm = [*[1.0] * 7, *[0.0] * 12, 1.0]
    with pytest.raises(ValueError, match=r"18 lie within 2 sd .*, 8 have .*, 6 both, and 6"):
        choose([candidate(RAMP, norm)], 1)


def test_no_more_trials_are_counted_than_have_distractors() -> None:
    """Of 40 images 20 are targets; the 4 with large norms are enough for one trial of two."""
    norm = [*[0.0] * 36, *[1.0] * 4]
    front = [float(x) for x in range(10, 3, -1)]
    first = candidate([*front, -10.0, *[0.0] * 32], norm, label="a:1")
    second = candidate([*[0.0] * 8, *front, -10.0, *[0.0] * 24], norm, label="a:2")
    [trial], _ = choose([first, second], 1, distractors=3)
    assert set(trial.distractors) <= {36, 37, 38, 39}
    with pytest.raises(ValueError, match=r"1 of 2 trials can .* 2 features \(a:2: 1 of 3 dist"):
        choose([first, second], 2, distractors=3)


def test_who_shares_its_mii_takes_the_next_smallest() -> None:
    first = candidate([*RAMP, *[0.1] * 20], label="a:1")
    same = candidate([*[0.1] * 20, *RAMP[:12], *[0.0] * 7, -10], label="a:2")
    values = same.activation.copy()
    values[19], values[30] = -11, -9
    same = candidate(values.tolist(), label="a:2")
    chosen, passed = choose([first, same], 2, distractors=2)
    assert passed == {}
    assert [x.mii for x in chosen] == [19, 39]


def test_who_has_none_of_the_seven_smallest_left_is_passed_over() -> None:
    count = 40
    low = [*range(-20, -13)]
    first = [
        candidate(
            [*np.roll(low, i), *[0.0] * 26, *[float(x + 10 * i) for x in range(1, 8)]],
            label=f"a:{i}",
        )
        for i in range(8)
    ]
    assert len(first[0].activation) == count
    chosen, _ = choose(first[:7], 7, distractors=0)
    assert sorted(x.mii for x in chosen) == list(range(7)), "one each"
    with pytest.raises(ValueError, match=r"a:7: .* \(7 tried\) .* its MII is the MII of a"):
        choose(first, 8, distractors=0)


def test_what_is_an_mii_is_no_other_feature_s_mei() -> None:
    first = candidate([*RAMP, *[0.1] * 20], label="a:1")
    turned = candidate([*(-x for x in RAMP), *[0.1] * 20], label="a:2")
    with pytest.raises(ValueError, match="a:2: the crop of its MEI is the MII of a:1"):
        choose([first, turned], 2)


def test_no_two_crops_of_one_photograph() -> None:
    photos = [f"photo {i}" for i in range(20)]
    photos[3] = photos[1]
    photos[12] = photos[0]
    [trial], _ = choose([candidate([*RAMP[:7], 3.0, *RAMP[8:]], photos=photos)], 1, distractors=2)
    assert trial.examples == (1, 2, 4, 5, 6, 7), "the next photograph stands in for a second crop"
    photos[19] = photos[0]
    [trial], _ = choose(
        [candidate([*RAMP[:7], 3.0, *RAMP[8:18], -5.0, -10.0], photos=photos)], 1, distractors=2
    )
    assert trial.mii == 18, "and for an MII that is a crop of the MEI's photograph"
    alone = [*RAMP[:7], 3.0, *RAMP[8:18], 0.0, -10.0]
    with pytest.raises(ValueError, match=r"\(1 tried\) can be its MII; .* an MEI"):
        choose([candidate(alone, photos=photos)], 1)
    photos[12:19] = [photos[1]] * 7
    with pytest.raises(ValueError, match=r"negative activations \(7 tried\) can be its MII"):
        choose([candidate([*RAMP[:7], 3.0, *range(-1, -13, -1)], photos=photos)], 1)
    with pytest.raises(ValueError, match="only 4 of 7 MEIs are of different photographs"):
        choose([candidate(RAMP, photos=["x"] * 7 + ["y"] * 10 + ["z", "z", "w"])], 1)


def test_pictures_that_look_the_same_are_one() -> None:
    crops = [f"crop {i}" for i in range(20)]
    crops[1] = crops[0]
    crops[8] = crops[9] = crops[10]
    for seed in range(20):
        [trial], _ = choose(
            [candidate([*RAMP[:7], 3.0, *RAMP[8:]], crops=crops)], 1, seed=seed, distractors=7
        )
        assert trial.examples == (2, 3, 4, 5, 6, 7)
        assert len({8, 9, 10} & set(trial.distractors)) <= 1


@pytest.mark.parametrize(
    ("activation", "match"),
    [
        ([-1.0] * 20, "only 0 of 7 MEIs excite it: -1 in the last"),
        ([*RAMP[:6], *[0.0] * 13, -10], "only 6 of 7 MEIs excite it: 0 in the last"),
        ([x + 10 for x in RAMP], "never negative: scan the ReLU by name"),
        ([*RAMP[:-1], float("nan")], "not finite"),
        (RAMP[:13], "13 images, too few for 7 at either end"),
    ],
)
def test_features_that_say_nothing_are_passed_over(activation: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose([candidate(activation)], 1)


def test_one_seed_one_choice() -> None:
    many = candidate([*RAMP[:7], *[0.0] * 100, -10])
    assert choose([many], 1, seed=3) == choose([many], 1, seed=3)
    drawn = {choose([many], 1, seed=seed)[0][0].distractors for seed in range(10)}
    assert len(drawn) == 10


def follows_appendix_b(candidates: Sequence[Candidate], chosen: Sequence[Chosen]) -> None:
    """Every rule, written out slowly."""
    crops: list[tuple[str, str]] = []
    photos: dict[str, set[str]] = {}
    for trial in chosen:
        scanned = candidates[trial.feature]
        f = [float(x) for x in scanned.activation]
        targets = [trial.mei, *trial.examples]
        everything = [*targets, trial.mii, *trial.distractors]
        assert len(everything) == len(set(everything)) == 15
        assert f[trial.mei] == max(f)
        assert f[trial.mii] < 0 < f[trial.examples[-1]]
        # 2nd to 7th: whatever is larger is the MEI, an example, or of a photograph shown here.
        shown = {scanned.photos[i] for i in (*targets, trial.mii)}
        shown_crops = {scanned.crop(i) for i in (*targets, trial.mii)}
        for i in range(len(f)):
            if f[i] > f[targets[-1]]:
                assert i in targets or scanned.photos[i] in shown or scanned.crop(i) in shown_crops
        assert [f[i] for i in targets] == sorted((f[i] for i in targets), reverse=True)
        mean = sum(f) / len(f)
        sd = (sum((x - mean) ** 2 for x in f) / len(f)) ** 0.5
        norms = sorted(float(x) for x in scanned.norm)
        # The 90th percentile, linear between the two ranks beside it.
        rank = 0.9 * (len(norms) - 1)
        low = norms[int(rank)]
        bound = low + (rank - int(rank)) * (norms[min(int(rank) + 1, len(norms) - 1)] - low)
        for i in trial.distractors:
            assert abs(f[i] - mean) <= 2 * sd * (1 + 1e-9) + 1e-9
            assert float(scanned.norm[i]) >= bound * (1 - 1e-9) - 1e-9
        crops += [("MEI", scanned.crop(i)) for i in targets]
        crops += [("once", scanned.crop(i)) for i in (trial.mii, *trial.distractors)]
        for i in everything:
            photos.setdefault(scanned.photos[i], set()).add(scanned.crop(i))
    # The smallest that no other trial shows, of the seven smallest.
    everywhere = {name for _, name in crops}
    for trial in chosen:
        scanned = candidates[trial.feature]
        smaller = [
            i
            for i in range(len(scanned.photos))
            if scanned.activation[i] < scanned.activation[trial.mii]
        ]
        assert len(smaller) < 7
        assert all(scanned.crop(i) in everywhere or scanned.photos[i] in photos for i in smaller)
    once = [crop for role, crop in crops if role == "once"]
    assert len(set(once)) == len(once)
    assert set(once).isdisjoint(crop for role, crop in crops if role == "MEI")
    assert all(len(crops_of_photo) == 1 for crops_of_photo in photos.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(60, 400), st.integers(1, 4))
def test_every_rule_holds_for_any_scan(seed: int, count: int, images: int, per: int) -> None:
    """Scans with ties, several crops a photograph, copies of files, and features that are alike."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(images)
    photos = [f"photo {i // per}" for i in range(images)]
    names = [f"crop {i}" for i in range(images)]
    for i in rng.integers(0, images, images // 20):
        names[i] = names[0]
    candidates = []
    for number in range(12):
        share = rng.choice([0.0, 0.3, 0.95])
        f = share * common + (1 - share) * rng.standard_normal(images)
        f = np.round(f, 1) if rng.random() < 0.3 else f
        norm = np.abs(rng.standard_normal(images)).round(int(rng.integers(0, 4)))
        candidates.append(
            candidate(f.tolist(), norm.tolist(), label=f"a:{number}", photos=photos, crops=names)
        )
    try:
        chosen, passed = choose(candidates, count, seed=seed)
    except ValueError as error:
        if "trials can be filled from 12 features" not in str(error):
            raise
        return
    assert len(chosen) == count
    follows_appendix_b(candidates, chosen)
    features = [x.feature for x in chosen]
    assert features == sorted(features)
    # Whoever was not chosen before the last one was passed over, with a reason.
    before = {f"a:{i}" for i in range(features[-1])} - {f"a:{i}" for i in features}
    assert before <= set(passed)
