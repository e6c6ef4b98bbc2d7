"""Figures of a disinhibition."""

import numpy as np
import pytest

from opponent import Disinhibited, Feature
from opponent.explain.disinhibition.ablation import Ablation
from opponent.explain.disinhibition.classes import Classes
from opponent.explain.disinhibition.shown import newly_firing
from opponent.plots import plot_confusions, plot_disinhibition

ABLATIONS = (
    Ablation(name="all"),
    Ablation(name="most", members=((1, 2), (0,))),
    Ablation(name="random", draw=0, members=((3, 4), (0,))),
    Ablation(name="random", draw=1, members=((5, 6), (0,))),
)


def made(labels: bool = False, constant: bool = False) -> Disinhibited:
    """Made-up numbers of two features in 60 images."""
    rng = np.random.default_rng(0)
    f = rng.normal(size=(60, 2)).astype(np.float32) * (not constant)
    change = rng.exponential(size=(60, 2, 4)).astype(np.float32)
    classes = Classes(
        chosen=(4, 7),
        names={4: "newt, water newt"},
        labels=rng.choice([4, 7, 9, -1], 60),
        rival=rng.normal(size=60).astype(np.float32),
        rival_class=np.full(60, 9),
    )
    return Disinhibited(
        network="made up",
        features=(Feature.parse("logits:4"), Feature.parse("logits:7")),
        through="early",
        ablations=ABLATIONS,
        images=tuple(f"{i}.png" for i in range(60)),
        activation=f,
        excitation=abs(f) + 1,
        inhibition=abs(f) + 2,
        hidden=abs(f) + 3,
        exact=f[..., None] + change,
        linear=f[..., None] + change,
        below=change * 0,
        below_size=change * 0,
        classes=classes if labels else None,
        question={},
        unreadable={},
    )


def texts(figure: object) -> set[str]:
    from matplotlib.text import Text

    return {x.get_text() for x in figure.findobj(Text)}  # type: ignore[attr-defined]


def test_before_and_after_stand_in_rows() -> None:
    figure = plot_disinhibition(made(), 1)
    words = texts(figure)
    assert {
        "nothing",
        "all channels",
        "1 channel that inhibits most",
        "1 channel at random",
    } <= words
    assert "logits:7 through early" in words
    ridges, rates = figure.axes
    # Nothing, all, most and random; of own, tense and silent images.
    assert len(rates.lines) == 4 * (1 + 3 * 3)
    assert ridges.get_ylim()[1] == 4


def test_a_feature_that_never_changes_is_drawn() -> None:
    plot_disinhibition(made(constant=True))


def test_confusions_are_shares_of_a_class() -> None:
    found = made(labels=True)
    figure = plot_confusions(found)
    panels = [x for x in figure.axes if x.images]
    assert len(panels) == 2 * 4
    classes = found.classes
    assert classes is not None
    together, alone = (x.images[0].get_array() for x in panels[2:4])
    after = found.exact[:, :, 0]
    for row, true in enumerate((4, 7)):
        where = classes.labels == true
        best = np.where(after[where, 0] >= after[where, 1], 4, 7)
        for column, unit in enumerate((4, 7)):
            assert together[row, column] == pytest.approx((best == unit).mean())
            logits = found.activation[where].copy()
            logits[:, column] = after[where, column]
            ahead = logits[:, column] >= np.maximum(logits.max(1), classes.rival[where])
            assert alone[row, column] == pytest.approx(ahead.mean())
    assert {"newt", "7"} <= texts(figure)


def test_confusions_need_labels() -> None:
    with pytest.raises(ValueError, match="confusions need labels"):
        plot_confusions(made())


def test_newly_firing_were_silent_and_are_not_its_own() -> None:
    found = made(labels=True)
    rows = newly_firing(found, 0, "all", 5)
    assert classes_of(found, rows).isdisjoint({4})
    assert (found.activation[rows, 0] <= 0).all()
    after = found.exact[rows, 0, 0]
    assert after.tolist() == sorted(after, reverse=True)
    assert (after > 0).all()


def classes_of(found: Disinhibited, rows: np.ndarray) -> set[int]:
    assert found.classes is not None
    return set(found.classes.labels[rows].tolist())
