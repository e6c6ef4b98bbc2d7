"""The few files that the experiment's page is made of: our own, and jsPsych as npm installs it."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from opponent.core.errors import RunError

PAGE = Path(__file__).parent / "page"
# What `npm ci` needs: the packages' exact versions and what their contents hash to.
PINS = ("package.json", "package-lock.json", ".npmrc")
OURS = ("index.html", "style.css", "api.js", "screens.js", "session.js")
THEIRS = {
    "jspsych.js": "jspsych/dist/index.browser.min.js",
    "preload.js": "@jspsych/plugin-preload/dist/index.browser.min.js",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# Where to look for what a file was made from: elsewhere, and the page loads nothing from there.
_ELSEWHERE = re.compile(rb"^//# sourceMappingURL=.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the page, held in memory."""

    content: bytes
    type: str

    @cached_property
    def tag(self) -> str:
        """An entity tag: another content has another."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def pinned() -> dict[str, str]:
    """The npm packages that the page needs, and their versions."""
    text = (PAGE / "package.json").read_text(encoding="utf-8")
    return {str(name): str(version) for name, version in json.loads(text)["dependencies"].items()}


def page_files(jspsych: Path | None = None) -> dict[str, File]:
    """The page's files by their path in the address.

    Args:
        jspsych: the folder in which `npm ci` was run, or its node_modules; without it, the
            package's own folder of the page.
    Raises:
        RunError: jsPsych is not there, or not in the version that the page was made for.
    """
    modules = _modules(jspsych or PAGE)
    files = {name: (PAGE / name).read_bytes() for name in OURS}
    files |= {
        name: _ELSEWHERE.sub(b"", (modules / path).read_bytes()) for name, path in THEIRS.items()
    }
    found = {
        f"/page/{name}": File(content=content, type=TYPES[Path(name).suffix])
        for name, content in files.items()
    }
    return {"/": found.pop("/page/index.html"), **found}


def _modules(folder: Path) -> Path:
    modules = folder if (folder / "jspsych").is_dir() else folder / "node_modules"
    for name, version in pinned().items():
        about = modules / name / "package.json"
        if not about.is_file():
            raise RunError(f"{name} {version} is not in {modules}; {_how(folder)}")
        found = json.loads(about.read_text(encoding="utf-8")).get("version")
        if found != version:
            raise RunError(
                f"{modules} has {name} {found}, and the page needs {version}; {_how(folder)}"
            )
    missing = [path for path in THEIRS.values() if not (modules / path).is_file()]
    if missing:
        raise RunError(f"{modules} lacks {', '.join(missing)}; {_how(folder)}")
    return modules


def _how(folder: Path) -> str:
    """What to run so that jsPsych is in that folder."""
    command = f"npm ci --ignore-scripts --prefix '{folder}'"
    if folder.resolve() != PAGE.resolve():
        pins = " ".join(f"'{PAGE / name}'" for name in PINS)
        command = f"mkdir -p '{folder}' && cp {pins} '{folder}' && {command}"
    return f"run: {command} (or give the command --install)"


def install(jspsych: Path | None = None) -> None:
    """Install what is pinned with npm, without running any of its scripts.

    Args:
        jspsych: into which folder; without it, the package's own.
    Raises:
        RunError: npm is missing or fails.
    """
    folder = jspsych or PAGE
    npm = shutil.which("npm")
    if npm is None:
        raise RunError("npm is not installed; it comes with Node.js")
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != PAGE.resolve():
        for name in PINS:
            shutil.copyfile(PAGE / name, folder / name)
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--prefix", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise RunError(f"npm ci failed in {folder}: {'; '.join(said[:3]) or 'it said nothing'}")
