"""A real Chromium without a window, for tests of the dashboard.

Found in this order: `PROXY_TEST_CHROMIUM` (the path of the program), then `NAMES` on the PATH. Without one, tests skip;
with `PROXY_TEST_CHROMIUM=required` they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

VARIABLE = "PROXY_TEST_CHROMIUM"
REQUIRED = "required"
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first has no windows, and takes half of the others' time."""
MISSING = (
    f"there is no Chromium: install `chromium-headless-shell` (Debian), or set {VARIABLE} to the path of one"
)
PLAIN_HTTP_NAME = "proxy.example"
"""Leads to loopback. To browsers it is no trustworthy origin, as plain http to any name but localhost."""


def program() -> str | None:
    """The path of Chromium."""
    given = os.environ.get(VARIABLE, "")
    if given and given != REQUIRED:
        return given
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test, or fails it if one is required, where there is none.

    While it is open, the thread counts as one with a running event loop, so no `asyncio.run` can be used.
    """
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - every test run imports this module

    found = program()
    if found is None:
        (pytest.fail if os.environ.get(VARIABLE) == REQUIRED else pytest.skip)(MISSING)
    arguments = [
        f"--host-resolver-rules=MAP {PLAIN_HTTP_NAME} 127.0.0.1",
        "--no-proxy-server",
        "--disable-gpu",
        "--in-process-gpu",  # one process less, which takes an eighth of the time
    ]
    if os.getuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()
