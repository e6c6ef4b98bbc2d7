"""The command `opponent who`."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.drivers import CELLS, cells
from typer.testing import CliRunner

from opponent import Network, Run
from opponent.cli import app
from opponent.explain import channels as channels_module
from opponent.explain.channels import who
from opponent.explain.silencing import silence_check
from opponent.reports.explanations import silence_facts

pytestmark = pytest.mark.usefixtures("one_thread")


def within(*arguments: object) -> str:
    """Run the command here, and give what it printed."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_prints_silences_and_writes(
    run: Run, embedded: Network, tmp_path: Path
) -> None:
    page = tmp_path / "who.html"
    text = within(
        "who", run.folder, "--feature", "mixed3b:189", "--silence", "--channels", "3", "--out", page
    )
    answer = who(run, "mixed3b:189", channels=3, crops=0)
    checked = silence_check(run, embedded, answer)
    plain = " ".join(text.split())
    assert plain.startswith(f"mixed3b:189@7,7 in {answer.about}, by channels of mixed3a")
    for driver in (*answer.exciting, *answer.inhibiting):
        assert driver.name in plain
        assert f"+{driver.excitation:.3g} ± {driver.excitation_sd:.2g}" in plain
        assert f"-{driver.inhibition:.3g} ± {driver.inhibition_sd:.2g}" in plain
    for name, value in (*answer.drivers.facts(), *silence_facts(answer, checked)):
        assert f"{name}: {value}" in plain
    assert plain.endswith("who.html")
    written = page.read_text()
    assert written.count('<img src="data:image/') >= 12
    assert f"without {answer.inhibiting[0].name}" in written


def test_the_command_takes_a_cell_images_and_groups(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels_module, "atlases", cells(CELLS))
    assert "in the images of cell 0,4, by" in " ".join(
        within("who", run.folder, "--feature", "mixed3b:9", "--cell", "0,4").split()
    )
    text = within(
        "who", run.folder, "--image", "03.png", "--image", "33.png", "--feature", "mixed3b:9"
    )
    assert " ".join(text.split()).startswith("mixed3b:9@0,3 in 2 images, by channels of mixed3a")
    assert "most silent images" in within(
        "who", run.folder, "--feature", "mixed3b:9", "--group", "silent"
    )
    for cell, message in (("9,9", "no images in cell 9,9; the nearest"), ("9", "is ROW,COLUMN")):
        with pytest.raises(ValueError, match=message):
            within("who", run.folder, "--feature", "mixed3b:9", "--cell", cell)


def test_help_has_an_example() -> None:
    text = " ".join(within("who", "--help").split())
    assert "Usage" in text
    assert "opponent who run --out who.html" in text


def test_a_mistake_is_one_line_without_a_traceback(run: Run) -> None:
    given = [sys.executable, "-m", "opponent", "who", str(run.folder), "--feature", "mixed3b:9"]
    given += ["--group", "nonsense"]
    result = subprocess.run(given, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "there is no group 'nonsense'; there are exciting, inhibiting," in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
