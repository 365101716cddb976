"""One Chromium for the tests of a worker in this folder, and people who use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.chromium import chromium
from tests.support.person import Person, person
from tests.support.proxy_process import Proxy

People = Callable[..., Person]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def people(browser: Browser) -> Iterator[People]:
    """Opens browsers at a proxy: `people(proxy, secret)` is signed in, `people(proxy)` is not. No page is loaded."""
    with ExitStack() as stack:

        def factory(proxy: Proxy | str, secret: str | None = None, **context: Any) -> Person:
            address = proxy if isinstance(proxy, str) else proxy.url
            found = stack.enter_context(person(browser, address, **context))
            return found.enter(secret) if secret else found

        yield factory
