"""How long clients may take, and where a request finds it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

PATIENCE = "codellama_proxy.patience"
"""In a request's scope: the `ClientTimeouts` of its connection."""


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """Seconds that clients may take."""

    head: float = 10.0
    """For a request's head to arrive, from the connection's start or from its own first byte."""
    body: float = 30.0
    """For its body, from the end of its head."""
    send: float = 30.0
    """To leave what we sent unread, once its and our buffers are full."""
    heartbeat: float = 15.0
    """Of silence in a stream, after which a comment tells the client, and what is between us, to stay."""


def client_timeouts(scope: Scope) -> ClientTimeouts:
    found = scope.get(PATIENCE)
    return found if isinstance(found, ClientTimeouts) else ClientTimeouts()
