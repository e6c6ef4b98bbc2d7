"""The page of images whose tension goes in latents, and stays."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.pages import HOSTILE, Visit

from opponent.explain.interference_images import InterferenceImages
from opponent.reports.interference import write_interference


@pytest.mark.parametrize("suffix", [".html", ".png", ".pdf", ".svg"])
def test_it_is_written(
    interference_answer: InterferenceImages, tmp_path: Path, suffix: str
) -> None:
    path = write_interference(interference_answer, tmp_path / f"page{suffix}")
    assert path.stat().st_size > 5000


def test_the_page_says_all_numbers_and_what_made_it(
    interference_answer: InterferenceImages, tmp_path: Path
) -> None:
    images = interference_answer
    text = write_interference(images, tmp_path / "page.html").read_text()
    for image in (*images.goes, *images.stays):
        assert f"<b>{image.remaining:.0%}</b> of the tension remains" in text
        for name, value in image.facts():
            assert f"<th>{name}</th><td>{value}</td>" in text
        for drivers in (image.by_latents, image.by_channels):
            for driver in (*drivers.exciting, *drivers.inhibiting):
                assert f"<b>{driver.name}</b>" in text
    for name, value in images.provenance():
        assert f"<th>{name}</th><td>{value}</td>" in text
    provenance = dict(images.provenance())
    assert provenance["dictionary (SHA-256)"] == images.dictionary.sha256()
    assert provenance["variance that it leaves"] == "not known"
    assert provenance["network"] == "inceptionv1-small"
    known = replace(images.dictionary, provenance={"left": 0.25})
    text = write_interference(replace(images, dictionary=known), tmp_path / "b.html").read_text()
    assert "<td>25.0%</td>" in text


def test_names_cannot_write_the_page(
    interference_answer: InterferenceImages, tmp_path: Path
) -> None:
    images = interference_answer
    hostile = replace(images, goes=(replace(images.goes[0], image=HOSTILE),))
    text = write_interference(hostile, tmp_path / "page.html").read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text


def test_without_images_it_says_so(interference_answer: InterferenceImages, tmp_path: Path) -> None:
    note = "No image is tense: there is nothing to compare."
    nothing = replace(interference_answer, goes=(), stays=(), notes=(note,))
    text = write_interference(nothing, tmp_path / "page.html").read_text()
    assert note in text
    assert text.count("<p>No image.</p>") == 2
    assert write_interference(nothing, tmp_path / "page.png").stat().st_size > 5000


def test_other_suffixes_are_refused(
    interference_answer: InterferenceImages, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"ends in none of \.html"):
        write_interference(interference_answer, tmp_path / "page.txt")


@pytest.mark.browser
def test_it_asks_for_nothing_from_elsewhere(
    browser: object, interference_answer: InterferenceImages, tmp_path: Path
) -> None:
    path = write_interference(interference_answer, tmp_path / "page.html")
    with Visit(browser, path) as visit:  # type: ignore[arg-type]
        assert visit.outside() == []
        assert visit.complaints == []
        assert visit.page.locator("article.case").count() == 4
