"""What the figures take, as it is told before they are begun."""

from dataclasses import replace

import pytest

from opponent.models.network import Network
from opponent.paper.reproduce import estimate
from opponent.paper.reproduce.estimate import expected_seconds, say, seconds_a_pass
from opponent.paper.reproduce.scales import SCALES


def test_it_grows_with_what_is_asked_for(
    embedded: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "seconds_a_pass", lambda _: 1.0)
    quick = SCALES["quick"]
    few, many = (expected_seconds(embedded, count, quick) for count in (400, 800))
    assert many["exemplars"] == 2 * few["exemplars"]
    # It takes 200 images at most, through 11 layers.
    assert many["completeness"] == few["completeness"] == 200 * 11 * estimate.TOTALS
    # The scale takes 800 at most.
    assert expected_seconds(embedded, 10_000, quick) == many
    longer = expected_seconds(embedded, 800, replace(quick, steps=2 * quick.steps))
    assert {name for name in many if longer[name] > many[name]} == {
        "case study", "atlases", "inversions",
    }  # fmt: skip


def test_a_pass_is_timed(embedded: Network) -> None:
    assert 0 < seconds_a_pass(embedded) < 10


def test_it_is_told_in_one_line_the_longest_first() -> None:
    assert say({"atlases": 20.0, "uniqueness": 9000.0, "inversions": 600.0}) == (
        "This takes about 2.7 h here, if nothing is there yet: uniqueness 2.5 h, "
        "inversions 10 min, atlases 1 min."
    )
