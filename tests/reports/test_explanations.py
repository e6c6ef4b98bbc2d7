"""Answers of `why` and `who` as pages and pictures."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.figures import words
from tests.support.pages import HOSTILE

from opponent import Network, Run, Who, Why, why
from opponent.explain.drivers import Driver, Drivers
from opponent.explain.silencing import Effect, Silenced
from opponent.plots import plot_who, plot_why
from opponent.reports.explanations import driver_values, silence_facts, write_who, write_why


def silenced(
    exciting: float | None, inhibiting: float | None, random: tuple[float, ...]
) -> Silenced:
    """Where S has the side's sign, twice what it is everywhere."""
    tops = (exciting, inhibiting, *(x and 2 * x for x in (exciting, inhibiting)))
    effects = [Effect(top=top, random=random) for top in tops]
    return Silenced(
        exciting=effects[0], inhibiting=effects[1], excitation=effects[2], inhibition=effects[3]
    )


# Why


@pytest.mark.parametrize("suffix", [".html", ".png", ".pdf", ".svg"])
def test_why_is_written(why_answer: Why, tmp_path: Path, suffix: str) -> None:
    path = write_why(why_answer, tmp_path / f"answer{suffix}")
    assert path.stat().st_size > 5000
    if suffix == ".html":
        assert why_answer.verdict in path.read_text()


def test_the_page_of_a_comparison_says_which_side_is_which(
    run: Run, embedded: Network, tmp_path: Path
) -> None:
    image = run.images.find("05.png").path
    answer = why(embedded, image, "logits:3", "mixed3a", against="logits:9")
    assert answer.against is not None
    hostile = replace(answer, against=replace(answer.against, meaning=HOSTILE))
    text = write_why(hostile, tmp_path / "why.html").read_text()
    assert "<img" not in text
    first, second = answer.titles[0], "logits:9 (&lt;img src=x onerror=alert(1)&gt;.png)"
    assert f"{first} rather than {second}?" in text
    assert f"Red, excitation: what speaks in <code>mixed3a</code> for {first}." in text
    assert f"Blue, inhibition: what speaks for {second}." in text
    assert "Small pictures: the part of the photograph" in text
    for _, value in (*answer.numbers(), *answer.drivers.facts()):
        assert value in text
    shown = words(plot_why(answer)).splitlines()
    assert f"for {first}" in shown
    assert f"for {answer.titles[1]}" in shown
    assert "logits:3" in shown
    assert "difference" in shown


def test_why_to_nowhere(run: Run, embedded: Network, tmp_path: Path) -> None:
    image = run.images.find("05.png").path
    answer = why(embedded, image, run.features[0], run.through)
    with pytest.raises(ValueError, match=r"ends in none of \.html"):
        write_why(answer, tmp_path / "answer.docx")
    without = why(embedded, image, "logits:3", "avgpool0")
    with pytest.raises(ValueError, match="no rows and columns"):
        write_why(without, tmp_path / "answer.html")
    assert list(tmp_path.iterdir()) == []


# Who


@pytest.mark.parametrize("suffix", [".html", ".png", ".pdf", ".svg"])
def test_who_is_written_whole_and_alike(who_answer: Who, tmp_path: Path, suffix: str) -> None:
    checked = silenced(-1.0, 2.0, (0.5, -0.5))
    paths = [write_who(who_answer, tmp_path / f"{k}{suffix}", checked) for k in ("a", "b")]
    assert paths[0] == tmp_path / f"a{suffix}"
    assert paths[0].stat().st_size > 5000
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_page_of_who_says_everything(who_answer: Who, tmp_path: Path) -> None:
    checked = silenced(-1.0, 2.0, (0.5, -0.5))
    named = (replace(who_answer.exciting[0], name=HOSTILE),)
    drivers = replace(who_answer.drivers, exciting=named)
    hostile = replace(who_answer, about=HOSTILE, drivers=drivers)
    text = write_who(hostile, tmp_path / "who.html", checked).read_text()
    assert f"Who drives {who_answer.feature.label}?" in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert f"{who_answer.excitation.sum():.4g}" in text
    assert f"{who_answer.inhibition.sum():.4g}" in text
    for _, value in (*drivers.facts(), *silence_facts(who_answer, checked)):
        assert value in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)


def test_channels_have_both_sides_on_one_scale_and_a_command() -> None:
    def driver(name: str, plus: float, minus: float) -> Driver:
        return Driver(channel=0, name=name, excitation=plus, inhibition=minus)

    one, two = driver("a:1", 4.0, 1.0), driver("a:2", 1.0, 2.0)
    drivers = Drivers(
        excitation=np.array([4.0, 1.0, 5.0]), inhibition=np.array([1.0, 2.0, 1.0]),
        exciting=(one,), inhibiting=(two, one), tension_within=0.5,
    )  # fmt: skip
    values = driver_values(drivers, lambda name: f"scan {name}")
    assert (values["left"], values["right"]) == (2.0, 4.0)
    excite, inhibit = values["sides"]
    assert excite["title"] == "Excite it: 40 % of all excitation"
    assert [(x["name"], x["plus_width"], x["minus_width"]) for x in inhibit["channels"]] == [
        ("a:2", 25.0, 100.0),
        ("a:1", 100.0, 50.0),
    ]
    assert excite["channels"][0]["command"] == "scan a:1"
    assert driver_values(drivers)["sides"][0]["channels"][0]["command"] is None


def test_facts_of_silencing(who_answer: Who) -> None:
    assert silence_facts(who_answer, None) == []
    who_answer = replace(who_answer, deviation=2.0)
    facts = silence_facts(who_answer, silenced(-3.0, 1.0, (1.0, -0.5, 0.1)))
    inhibits, excites = who_answer.inhibiting[0].name, who_answer.exciting[0].name
    others = "; one of 3 others at random: +0.100 sd (−0.250 to +0.500)"
    assert facts == [
        (f"without {inhibits} where it inhibits", "+1.000 sd" + others),
        (f"without {inhibits} everywhere", "+0.500 sd" + others),
        (f"without {excites} where it excites", "−3.000 sd" + others),
        (f"without {excites} everywhere", "−1.500 sd" + others),
    ]
    none = silenced(None, 1.0, ())
    drivers = replace(who_answer.drivers, exciting=())
    alone = [(facts[0][0], "+1.000 sd"), (facts[1][0], "+0.500 sd")]
    assert silence_facts(replace(who_answer, drivers=drivers), none) == alone
    # No deviation: in units of the activation.
    still = replace(who_answer, deviation=0.0)
    alone = [(facts[0][0], "+2.000 sd"), (facts[1][0], "+1.000 sd")]
    assert silence_facts(still, none) == alone


def test_who_without_channels_is_drawn(who_answer: Who, tmp_path: Path) -> None:
    drivers = replace(who_answer.drivers, exciting=(), inhibiting=())
    empty = replace(who_answer, drivers=drivers)
    assert words(plot_who(empty)).splitlines().count("no channel does") == 2
    path = write_who(empty, tmp_path / "who.html", silenced(None, None, ()))
    assert "without" not in path.read_text().partition("In numbers")[2]


@pytest.mark.parametrize("name", ["who.docx", "who", "who.HTML.zip"])
def test_who_to_nowhere(who_answer: Who, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"ends in none of \.html, \.png, \.pdf, \.svg"):
        write_who(who_answer, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
