"""The report in a real browser, with the network off, and with names that would be script."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser
from tests.support.pages import HOSTILE, QUICK, WHERE, Visit
from tests.support.pictures import paint_noise
from tests.support.plain import plain_network

from opponent import (
    Box,
    Objective,
    Parameterisation,
    Run,
    SynthesisSettings,
    Transforms,
    Views,
    scan_images,
)
from opponent.reports.report import write_report


class Grey(Parameterisation):
    """One grey for each image."""

    label = "grey"

    def __init__(
        self, count: int, size: tuple[int, int], *, generator: torch.Generator, device: Any = "cpu"
    ) -> None:
        self.size = size
        grey = torch.randn(1, 3, 1, 1, generator=generator).to(device)
        self.parameters = [grey.expand(count, 3, 1, 1).clone().requires_grad_()]

    def images(self, part: Box | None = None) -> torch.Tensor:
        """The images, or a box of them."""
        height, width = self.size if part is None else (part.height, part.width)
        return torch.sigmoid(self.parameters[0]).expand(-1, -1, height, width)


class Hidden(Objective):
    """The sum of what the network holds in the window."""

    label = "all of hidden"

    def values(self, views: Views) -> torch.Tensor:
        """One value a view."""
        return views.hidden.sum((1, 2, 3))


@pytest.mark.browser
def test_report_shows_every_picture_and_asks_for_nothing(
    browser: Browser, run: Run, report: Path
) -> None:
    with Visit(browser, report) as visit:
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert visit.page.evaluate("document.images.length") > 40
        assert visit.page.evaluate(broken) == 0
        assert visit.outside() == []
        assert visit.complaints == []
        assert visit.page.locator("canvas").count() >= 2
        text = visit.page.inner_text("body")
        assert run.features[0].label in text
        assert "broken.png" in text
        assert HOSTILE in text


@pytest.mark.browser
def test_report_fits_a_telephone(browser: Browser, report: Path) -> None:
    with Visit(browser, report, width=390) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.browser
def test_hovering_shows_the_right_image(browser: Browser, report: Path, run: Run) -> None:
    with Visit(browser, report) as visit:
        columns = run.columns()
        row = int(columns.activation.argmax())
        where = visit.page.evaluate(
            WHERE,
            [float(columns.excitation[row]), float(columns.inhibition[row])],
        )
        visit.page.mouse.move(*where)
        visit.page.wait_for_timeout(500)
        card = visit.page.locator(".card").first
        assert columns.images[row] in card.inner_text()
        assert card.locator("img").evaluate("i => i.naturalWidth") > 0


def test_report_is_the_same_twice(run: Run, report: Path, tmp_path: Path) -> None:
    again = write_report(run, tmp_path / "again.html", k=40, settings=QUICK)
    # Bokeh gives its elements random names; all else is the same.
    plain = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|p\d+", "", p.read_text()) for p in (report, again)]
    assert plain[0] == plain[1]


def test_report_of_a_feature_that_is_not_there(run: Run) -> None:
    with pytest.raises(ValueError, match="holds no 'mixed3a:7'"):
        write_report(run, features=["mixed3a:7"])


def test_it_names_the_objective_and_parameterisation_of_the_users_own(tmp_path: Path) -> None:
    images = paint_noise(tmp_path / "pictures", 12, (20, 14))
    network = plain_network()
    run = scan_images(network, images, "after:0", "relu", out=tmp_path / "run")
    settings = SynthesisSettings(
        steps=1, canvas=(12, 12), transforms=Transforms(draws=1), objective=Hidden(),
        parameterisation=Grey,
    )  # fmt: skip
    page = write_report(run, network=network, k=1, settings=settings).read_text()
    assert "1 steps, grey, all of hidden, boxes of" in page
    plain = replace(settings, objective=None, parameterisation="pixels", power=2.0)
    page = write_report(run, network=network, k=1, settings=plain).read_text()
    assert "1 steps, pixels, dot * cos^2, boxes of" in page


def test_the_run_folder_says_what_was_made(run: Run, report: Path) -> None:
    records = [json.loads(p.read_text()) for p in (run.folder / "synthesis").glob("*.json")]
    assert {each["kind"] for each in records} == {"inversion", "accentuation", "visualisation"}
    assert all(len(each["activation"]) == QUICK.steps for each in records)
    assert {each["side"] for each in records} == {"excitation", "inhibition"}
