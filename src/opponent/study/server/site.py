"""The files of the experiment's page: our own, and jsPsych as npm installs it."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from opponent.core.errors import RunError

PAGE = Path(__file__).parents[1] / "page"
# The files that `npm ci` needs: exact versions of packages, and hashes of their contents.
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
# The line that every page of a pilot shows.
_PILOT_HIDDEN, _PILOT_SHOWN = b'<p id="pilot" hidden>', b'<p id="pilot">'
# Points to a file's source elsewhere. The page loads nothing from elsewhere.
_ELSEWHERE = re.compile(rb"^//# sourceMappingURL=.*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the page, held in memory."""

    content: bytes
    type: str

    @cached_property
    def tag(self) -> str:
        """The entity tag, a hash of the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def pinned() -> dict[str, str]:
    """The npm packages that the page needs, with their versions."""
    text = (PAGE / "package.json").read_text(encoding="utf-8")
    return {str(name): str(version) for name, version in json.loads(text)["dependencies"].items()}


def page_files(jspsych: Path | None = None, *, pilot: bool = False) -> dict[str, File]:
    """The page's files by their path in the address.

    Args:
        jspsych: the folder in which `npm ci` was run, or its node_modules. Default: the package's
            own folder of the page.
        pilot: whether every page says that the study is only being tried.
    Returns:
        Files by path, such as '/' and '/page/style.css'.
    Raises:
        RunError: jsPsych is missing, or is not of the version that the page needs.
    """
    modules = _modules(jspsych or PAGE)
    files = {name: (PAGE / name).read_bytes() for name in OURS}
    files |= {
        name: _ELSEWHERE.sub(b"", (modules / path).read_bytes()) for name, path in THEIRS.items()
    }
    by_path = {
        f"/page/{name}": File(content=content, type=TYPES[Path(name).suffix])
        for name, content in files.items()
    }
    page = by_path.pop("/page/index.html")
    if pilot:
        page = replace(page, content=page.content.replace(_PILOT_HIDDEN, _PILOT_SHOWN))
    return {"/": page, **by_path}


def _modules(folder: Path) -> Path:
    modules = folder if (folder / "jspsych").is_dir() else folder / "node_modules"
    for name, version in pinned().items():
        about = modules / name / "package.json"
        if not about.is_file():
            raise RunError(f"{name} {version} is not in {modules}; {_how(folder)}")
        installed = json.loads(about.read_text(encoding="utf-8")).get("version")
        if installed != version:
            raise RunError(
                f"{modules} has {name} {installed}, and the page needs {version}; {_how(folder)}"
            )
    missing = [path for path in THEIRS.values() if not (modules / path).is_file()]
    if missing:
        raise RunError(f"{modules} lacks {', '.join(missing)}; {_how(folder)}")
    return modules


def _how(folder: Path) -> str:
    """The command that installs jsPsych in that folder, for an error message."""
    command = f"npm ci --ignore-scripts --prefix '{folder}'"
    if folder.resolve() != PAGE.resolve():
        pins = " ".join(f"'{PAGE / name}'" for name in PINS)
        command = f"mkdir -p '{folder}' && cp {pins} '{folder}' && {command}"
    return f"run: {command} (or give the command --install)"


def install(jspsych: Path | None = None) -> None:
    """Install the pinned packages with npm, without running their scripts.

    Args:
        jspsych: the folder to install in. Default: the package's own folder of the page.
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
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise RunError(f"npm ci failed in {folder}: {'; '.join(lines[:3]) or 'no error message'}")
