"""What the dashboard remembers between requests, in this process only."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from codellama_proxy.core.errors import ProxyError
from codellama_proxy.web.ui.throttle import Throttle

MAX_REQUESTS_PER_SECOND = 60.0
"""Of all key holders together, and as many of the operator. Signing in and files do not count."""
MAX_BURST = 240.0


class RequestRate:
    """A token bucket over pages, so that viewers cannot slow down requests to models."""

    def __init__(self) -> None:
        self._level = MAX_BURST
        self._at = 0.0

    def take(self, now: float) -> None:
        """Count a page at a monotonic time. Raises `ProxyError` 503."""
        self._level = min(MAX_BURST, self._level + (now - self._at) * MAX_REQUESTS_PER_SECOND)
        self._at = now
        if self._level < 1:
            raise ProxyError("overloaded", "Too many pages are requested at once.", retry_after=1.0)
        self._level -= 1


class UiState:
    """Held at `app.state.ui`."""

    def __init__(self) -> None:
        self.throttle = Throttle()
        self.of_operator = RequestRate()
        self.of_holders = RequestRate()
        """Their own, so that no key can keep the operator out."""
        self.probed: set[str] = set()
        """The ids of deployments with a probe in progress."""
        self.drafts = asyncio.Lock()
        """Held while a draft of the configuration is checked: one at a time."""
        self.streams = 0
        """Open streams of rows."""


def state_of(request: Request) -> UiState:
    """The state of the app that handles the request."""
    state: UiState = request.app.state.ui
    return state
