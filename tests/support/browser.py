"""A Chromium for tests that open pages: the fixture `browser`, one for all of them.

Playwright's event loop counts as running for as long as Playwright does, and asyncio.run refuses to
start beside a running loop. So the loop is hidden from tests that do not use the browser.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = os.environ.get("OPPONENT_CHROMIUM") or shutil.which("chromium")
# Nothing but the pages may use the network.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
# Playwright's loop, once a test has used the browser.
_loops: list[asyncio.AbstractEventLoop] = []


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium without a screen. Tests make contexts of their own, and close them.

    Skips where there is no Chromium: Debian's, or the one that OPPONENT_CHROMIUM names.
    """
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install it, or name it in OPPONENT_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        _loops.append(asyncio.get_running_loop())
        yield chromium
        _loops.clear()
        chromium.close()


def _show_loop(shown: bool) -> None:
    for loop in _loops:
        asyncio._set_running_loop(loop if shown else None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hide Playwright's loop from tests that do not use the browser."""
    _show_loop("browser" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Show it to fixtures of a module or of the session that use the browser."""
    _show_loop(True)
