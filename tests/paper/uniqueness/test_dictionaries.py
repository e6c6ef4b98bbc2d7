"""Measurements in dictionaries: which fit, what is measured, and the figure."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.uniqueness import QUICK

from opponent import Dictionary, Network
from opponent.paper.uniqueness.contrasts import contrast
from opponent.paper.uniqueness.control_figures import dictionaries_figure
from opponent.paper.uniqueness.measure import measure_features

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_identity_is_the_channels(small: Network, pictures: Path, tmp_path: Path) -> None:
    identity = Dictionary.identity(12, "second")
    measured = measure_features(
        small, pictures, out=tmp_path, layers=["third:second"], dictionaries=[identity],
        settings=QUICK,
    )  # fmt: skip
    for group in measured.groups:
        assert set(group.sizes) == {"channels", "linear 12"}
        latents = group.sizes["linear 12"]
        assert latents[..., :3] == pytest.approx(group.sizes["channels"], rel=1e-4, abs=1e-6)
        assert latents[..., 3] == pytest.approx(0, abs=1e-6)
    contrasts = contrast(measured, 6)
    for row in contrasts.remaining:
        assert row.l1.value == pytest.approx(1, rel=1e-4)
        assert row.tension.value == pytest.approx(1, rel=1e-4)
    figure = dictionaries_figure(contrasts, ["third"])
    first = figure.axes[0]
    rows = [
        x
        for x in contrasts.sharing
        if (x.kind, x.by, x.given, x.control) == ("units", "l1", "alone", "permuted")
    ]
    drawn = {round(float(line.get_ydata()[0]), 9) for line in first.lines}  # type: ignore[index]
    assert {round(x.learnt.value, 9) for x in rows} <= drawn


def test_dictionaries_that_do_not_fit(small: Network, pictures: Path, tmp_path: Path) -> None:
    fits = Dictionary.identity(12, "second")
    for given, message in (
        ([Dictionary.identity(10, "third")], "is of none of the layers gone through: second"),
        ([replace(fits, layer=None)], "is of none of the layers gone through: second"),
        ([Dictionary.identity(7, "second")], "is of 7 channels, and 'second' has 12"),
        ([fits, fits], "two dictionaries of 'second' are called 'linear 12'"),
    ):
        with pytest.raises(ValueError, match=message):
            measure_features(
                small, pictures, out=tmp_path, layers=["third:second"], dictionaries=given,
                settings=QUICK,
            )  # fmt: skip
    assert not any(tmp_path.iterdir())
