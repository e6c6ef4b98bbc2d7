"""The page's files, and the command that serves them."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from opponent.core.errors import RunError
from opponent.study.design.study import Study
from opponent.study.server import site


def test_what_is_installed_is_what_is_pinned(
    files: dict[str, site.File], jspsych: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(files) == {"/", *(f"/page/{x}" for x in (*site.OURS[1:], *site.THEIRS))}
    for path, file in files.items():
        # Nothing is loaded from elsewhere, and nothing runs that the policy forbids.
        text = file.content.decode()
        assert "sourceMappingURL" not in text
        if path == "/":
            assert not re.search(r"(src|href)=\"(?!/page/)", text)
            assert not re.search(r"<script>|\son\w+=|style=", text)
    # A pilot differs by one line, which every page shows.
    shown = b'<p id="pilot">This is a pilot'
    assert shown not in files["/"].content
    piloted = site.page_files(jspsych, pilot=True)
    assert shown in piloted["/"].content
    assert {path for path in files if files[path] != piloted[path]} == {"/"}
    modules = tmp_path / "node_modules"
    with pytest.raises(RunError, match="npm ci --ignore-scripts --prefix"):
        site.page_files(tmp_path)
    (modules / "jspsych").mkdir(parents=True)
    (modules / "jspsych" / "package.json").write_text('{"version": "7.0.0"}')
    (modules / "@jspsych" / "plugin-preload").mkdir(parents=True)
    version = site.pinned()["@jspsych/plugin-preload"]
    about = modules / "@jspsych" / "plugin-preload" / "package.json"
    about.write_text(f'{{"version": "{version}"}}')
    with pytest.raises(RunError, match=r"has jspsych 7\.0\.0, and the page needs"):
        site.page_files(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="npm is not installed"):
        site.install(tmp_path)


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(
    files: dict[str, site.File], jspsych: Path, study: Study
) -> None:
    command = [sys.executable, "-m", "opponent", "experiment", "serve", str(study.folder)]
    with subprocess.Popen(
        [*command, "--port", "0", "--jspsych", str(jspsych)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        address = re.search(r"serving at (http://127\.0\.0\.1:\d+/)$", said)
        assert address, said
        assert httpx.get(address[1]).content == files["/"].content
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 0
    assert rest == f"stopped; all answers are in {study.folder / 'answers.sqlite3'}\n"


def test_no_registry_is_named() -> None:
    for name in site.PINS:
        assert "registry" not in (site.PAGE / name).read_text().replace(
            "omit-lockfile-registry-resolved=true", ""
        )
    assert '"resolved"' not in (site.PAGE / "package-lock.json").read_text()
