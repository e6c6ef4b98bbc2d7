"""The files of the experiment's page, for the tests that serve it."""

import os
from pathlib import Path

import pytest

from opponent.core.errors import RunError
from opponent.study.server import site

JSPSYCH = Path(os.environ.get("OPPONENT_JSPSYCH", site.PAGE))


@pytest.fixture(scope="session")
def jspsych() -> Path:
    """The folder of jsPsych: the page's own, or the one that OPPONENT_JSPSYCH names."""
    return JSPSYCH


@pytest.fixture(scope="session")
def files(jspsych: Path) -> dict[str, site.File]:
    """The page's files with jsPsych; skips where jsPsych is not installed."""
    try:
        return site.page_files(jspsych)
    except RunError as error:
        pytest.skip(str(error))
